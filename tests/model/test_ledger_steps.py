"""Every occurrence executes exactly once, whoever dies or sleeps before whichever step.

Stateless exploration: a history is a list of choices; each is run from the beginning on a real
server, until every choice at every point was taken once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.model.ledger_world import Leader, World
from tests.support.servers import Server

WORKERS = ("eager", "fifo", "lifo", "mixed")

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
        options += ["first"] * first.at.startswith("publish")
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

    It is refused and changes nothing, so all moments in between are alike. Publications are not.
    """
    if sleeper.at and not sleeper.at.startswith("publish"):
        if choices.take("refused at once", "refused at the end") == "refused at once":
            sleeper.step()
            assert not sleeper.at, f"a sleeper was not refused and goes on with {sleeper.at}"


def explore(client: redis.Redis, shape: tuple[int, int, int], workers: str, sleepers: bool) -> int:
    """Run all histories, and return how many there are."""
    entries, ticks, batch = shape
    choices, count = Choices(), 0
    while True:
        world = World(client, {f"entry {n}": 1 for n in range(entries)}, batch, workers=workers)
        world.now = ticks
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


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_occurrences_run_once_whoever_dies_or_sleeps(
    client: redis.Redis, shape: tuple[int, int, int], workers: str
) -> None:
    assert explore(client, shape, workers, sleepers=True) > 500
