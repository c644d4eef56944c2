"""Every occurrence executes exactly once, whoever dies or sleeps before whichever step.

Stateless exploration: a history is a list of choices; each is run from the beginning on a real
server, until every choice at every point was taken once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.model.ledger.world import Leader, World
from tests.support.servers import Server

WORKERS = ("eager", "fifo", "lifo", "mixed")

OUTSIDE = ("publish", "wait")
"""Steps that do not ask the ledger."""

SHAPES_OF_TWO = {"one entry, two moments": (1, 2, 1), "two entries at once": (2, 1, 2)}
SHAPES_OF_FOUR = {
    "one entry, four moments": (1, 4, 1),
    "two entries, two moments": (2, 2, 2),
    "two entries, two moments, one by one": (2, 2, 1),
    "four entries at once": (4, 1, 4),
}


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server("valkey", unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


class Choices:
    """Takes recorded choices again, then always the first; ``advance`` goes on to the next."""

    def __init__(self) -> None:
        self._taken: list[tuple[str, list[str]]] = []
        self._place = 0

    def take(self, *options: str) -> str:
        if self._place == len(self._taken):
            self._taken.append((options[0], list(options[1:])))
        self._place += 1
        return self._taken[self._place - 1][0]

    def advance(self) -> bool:
        self._place = 0
        while self._taken:
            _, left = self._taken.pop()
            if left:
                self._taken.append((left[0], left[1:]))
                return True
        return False

    def __str__(self) -> str:
        return ", ".join(choice for choice, _ in self._taken)


def run_history(world: World, choices: Choices, *, sleepers: bool) -> None:
    """Two leaders, each of which may die before any step; the first may sleep and wake."""
    first = world.elect()
    ways_to_leave = ("dies", "sleeps") if sleepers else ("dies",)
    while first.at:
        if (way := choices.take("goes on", *ways_to_leave)) == "goes on":
            first.step()
            continue
        if way == "dies":
            first.kill()
        break
    second = world.elect()
    wake_if_refused(first, choices)
    while second.at:
        options = ["second", "second dies"]
        options += ["first"] * first.at.startswith(OUTSIDE)
        match choices.take(*options):
            case "second":
                second.step()
            case "first":
                first.step()
                wake_if_refused(first, choices)
            case "second dies":
                second.kill()
    # A sleeper that is left wakes after the last leader has done everything.
    world.finish()


def wake_if_refused(sleeper: Leader, choices: Choices) -> None:
    """Let a sleeper take a step in the ledger at once, or after all others.

    It is refused and changes nothing, so all moments in between are alike. Publications are not,
    nor is a wait for the moment of one.
    """
    if sleeper.at and not sleeper.at.startswith(OUTSIDE):
        if choices.take("refused at once", "refused at the end") == "refused at once":
            sleeper.step()
            assert not sleeper.at, f"a sleeper was not refused and goes on with {sleeper.at}"


def explore(
    client: redis.Redis,
    shape: tuple[int, int, int],
    workers: str,
    sleepers: bool,
    lead: int = 0,
) -> int:
    """Run all histories, and return how many there are.

    Args:
        client: Of the server.
        shape: How many entries, moments of each, and claims at once.
        workers: When they take messages.
        sleepers: Whether the first leader may sleep and wake.
        lead: Ticks by which claims are made before their moment; time then passes while a leader
            waits for one. 0: all is due from the beginning.
    """
    entries, ticks, batch = shape
    choices, count = Choices(), 0
    while True:
        world = World(client, {f"entry {n}": 1 for n in range(entries)}, batch, workers=workers)
        world.lead, world.until = lead, ticks
        world.now = 0 if lead else ticks
        run_history(world, choices, sleepers=sleepers)
        trace = "\n".join(world.trace)
        assert not world.faults(), f"{world.faults()}\nafter: {choices}\n{trace}"
        count += 1
        if not choices.advance():
            return count
        if count % 500 == 0:
            client.flushdb()


@pytest.mark.parametrize("workers", ["eager", "lifo"])
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_two_occurrences_run_once_whoever_dies_or_sleeps(
    client: redis.Redis, shape: tuple[int, int, int], workers: str
) -> None:
    assert explore(client, shape, workers, sleepers=True) > 100


@pytest.mark.parametrize("workers", ["eager", "lifo"])
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_occurrences_run_once_whoever_dies(
    client: redis.Redis, shape: tuple[int, int, int], workers: str
) -> None:
    assert explore(client, shape, workers, sleepers=False) > 100


@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_what_is_claimed_early_runs_once_and_not_before_its_moment(
    client: redis.Redis, shape: tuple[int, int, int]
) -> None:
    assert explore(client, shape, "eager", sleepers=False, lead=1) > 50


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_two_that_are_claimed_early_run_once_whoever_dies_or_sleeps(
    client: redis.Redis, shape: tuple[int, int, int], workers: str, lead: int
) -> None:
    assert explore(client, shape, workers, sleepers=True, lead=lead) > 100


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_that_are_claimed_early_run_once_whoever_dies(
    client: redis.Redis, shape: tuple[int, int, int], workers: str, lead: int
) -> None:
    assert explore(client, shape, workers, sleepers=False, lead=lead) > 50


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_occurrences_run_once_whoever_dies_or_sleeps(
    client: redis.Redis, shape: tuple[int, int, int], workers: str
) -> None:
    assert explore(client, shape, workers, sleepers=True) > 500
