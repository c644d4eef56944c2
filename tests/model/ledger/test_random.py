"""Random histories of a ledger on a real server. A failure prints the seed that repeats it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.model.ledger.faults import LOSSES, History
from tests.support.servers import Server

OF_THE_LEDGER = LOSSES[:-1]
KINDS: dict[str, tuple[str, ...]] = {
    "nothing lost": (),
    "runs or pending lost or set back": OF_THE_LEDGER,
    "everything lost": ("all",),
}


@pytest.fixture(scope="module", params=["valkey", "redis"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with Server(request.param, unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


def run_seeds(client: redis.Redis, seeds: range, losses: tuple[str, ...]) -> None:
    lost = 0
    for seed in seeds:
        history = History(client, seed, losses)
        faults = history.run()
        trace = "\n".join(history.world.trace)
        assert not faults, f"seed={seed} losses={losses}\n{faults}\nafter:\n{trace}"
        lost += history.lost
        if seed % 500 == 0:
            client.flushdb()
    assert lost or not losses, "no data was lost in any history: the test shows nothing"


@pytest.mark.parametrize("losses", KINDS.values(), ids=KINDS)
def test_each_occurrence_runs_once_in_random_histories(
    client: redis.Redis, losses: tuple[str, ...]
) -> None:
    run_seeds(client, range(1, 61), losses)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("losses", KINDS.values(), ids=KINDS)
def test_each_occurrence_runs_once_in_many_random_histories(
    client: redis.Redis, losses: tuple[str, ...]
) -> None:
    run_seeds(client, range(1_000, 11_000), losses)
