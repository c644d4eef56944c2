"""Every occurrence executes exactly once, whoever dies or sleeps before whichever step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from tests.model.ledger.both_ways import TransactionalLeader
from tests.model.ledger.cases import KINDS, SHAPES_OF_FOUR, SHAPES_OF_TWO, WITH_OLDER, WORKERS
from tests.model.ledger.exploration import explore
from tests.model.ledger.leader import Leader
from tests.support.servers import Server


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server("valkey", unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(kinds, id=name, marks=[pytest.mark.long] * (kinds[0] is not kinds[1]))
        for name, kinds in KINDS.items()
    ],
)
def test_two_occurrences_run_once_whoever_dies_or_sleeps(
    client: redis.Redis, kinds: tuple[type[Leader], type[Leader]]
) -> None:
    assert explore(client, (1, 2, 1), "lifo", kinds, sleepers=True).states > 20


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_four_occurrences_run_once_whoever_dies(
    client: redis.Redis, kinds: tuple[type[Leader], type[Leader]]
) -> None:
    assert explore(client, (4, 1, 4), "eager", kinds, sleepers=False).states > 20


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_two_occurrences_in_any_shape_run_once_whoever_dies_or_sleeps(
    client: redis.Redis,
    shape: tuple[int, int, int],
    kinds: tuple[type[Leader], type[Leader]],
    workers: str,
    record_property: Callable[[str, object], None],
) -> None:
    found = explore(client, shape, workers, kinds, sleepers=True)
    record_property("explored", str(found))
    assert found.states > 20


@pytest.mark.parametrize("second", [Leader, TransactionalLeader])
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_what_the_older_release_claims_early_runs_once_and_not_before_its_moment(
    client: redis.Redis, shape: tuple[int, int, int], second: type[Leader]
) -> None:
    assert explore(client, shape, "eager", (Leader, second), sleepers=False, lead=1).states > 20


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lead", [1, 2])
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kinds", WITH_OLDER.values(), ids=WITH_OLDER)
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_two_that_are_claimed_early_run_once_whoever_dies_or_sleeps(
    client: redis.Redis,
    shape: tuple[int, int, int],
    kinds: tuple[type[Leader], type[Leader]],
    workers: str,
    lead: int,
    record_property: Callable[[str, object], None],
) -> None:
    found = explore(client, shape, workers, kinds, sleepers=True, lead=lead)
    record_property("explored", str(found))
    assert found.states > 20


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kinds", WITH_OLDER.values(), ids=WITH_OLDER)
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_that_are_claimed_early_run_once_whoever_dies(
    client: redis.Redis,
    shape: tuple[int, int, int],
    kinds: tuple[type[Leader], type[Leader]],
    workers: str,
    record_property: Callable[[str, object], None],
) -> None:
    found = explore(client, shape, workers, kinds, sleepers=False, lead=1)
    record_property("explored", str(found))
    assert found.states > 20


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES_OF_FOUR.values(), ids=SHAPES_OF_FOUR)
def test_four_occurrences_run_once_whoever_dies_or_sleeps(
    client: redis.Redis,
    shape: tuple[int, int, int],
    kinds: tuple[type[Leader], type[Leader]],
    workers: str,
    record_property: Callable[[str, object], None],
) -> None:
    found = explore(client, shape, workers, kinds, sleepers=True)
    record_property("explored", str(found))
    assert found.states > 20
