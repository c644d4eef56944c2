"""Random histories of a ledger on a real server. A failure prints the seed that repeats it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from tests.model.ledger.faults import LOSSES, WAYS, History
from tests.support.servers import Server

OF_THE_LEDGER = LOSSES[:-1]
KINDS: dict[str, tuple[str, ...]] = {
    "nothing lost": (),
    "runs or pending lost or set back": OF_THE_LEDGER,
    "everything lost": ("all",),
}


@pytest.fixture(scope="module", params=["valkey", "redis", "redis-6.2"])
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    with Server(request.param, unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


@dataclass
class Tally:
    """What happened in many histories."""

    lost: int = 0
    once: int = 0
    claimed: int = 0

    def add(self, history: History) -> None:
        """Count one history."""
        self.lost += history.lost
        for messages in history.world.taken.values():
            once = sum(message.is_once for message in messages)
            self.once += once
            self.claimed += len(messages) - once


def run_seeds(client: redis.Redis, seeds: range, way: str, losses: tuple[str, ...]) -> None:
    tally = Tally()
    for seed in seeds:
        history = History(client, seed, WAYS[way], losses)
        try:
            faults = history.run()
        except Exception as exc:
            faults = [repr(exc)]
        trace = "\n".join(history.world.trace)
        assert not faults, f"seed={seed} way={way} losses={losses}\n{faults}\nafter:\n{trace}"
        tally.add(history)
        if seed % 500 == 0:
            client.flushdb()
    assert tally.lost or not losses, "no data was lost in any history: the test shows nothing"
    assert (tally.once > 0) == (way != "write-ahead"), "no run was published by a script"
    assert tally.claimed, "no run was claimed"


@pytest.mark.parametrize("losses", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_each_occurrence_runs_once_in_random_histories(
    client: redis.Redis, way: str, losses: tuple[str, ...]
) -> None:
    run_seeds(client, range(1, 31), way, losses)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("losses", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_each_occurrence_runs_once_in_many_random_histories(
    client: redis.Redis, way: str, losses: tuple[str, ...]
) -> None:
    """These are 21,600 in all, on three servers."""
    run_seeds(client, range(1_000, 1_600), way, losses)
