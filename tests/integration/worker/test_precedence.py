"""The sign of workers with a beat: who shows it, for how long, and who stays away for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._worker.embedded_beat.precedence import Precedence, sign_key
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

TTL = 0.6
SIGN = sign_key(ElectionKeys("shop", "worker"))


class Candidate:
    """A worker's part in the election, and what it was told."""

    def __init__(self, name: str) -> None:
        self.keys = ElectionKeys("shop", "worker")
        self.leader = SimpleNamespace(candidate_id=name, active=True, fencing_token=None)
        self.told: list[str] = []

    def resign(self, reason: str) -> None:
        self.told.append("resign")

    def elect(self, reason: str) -> None:
        self.told.append("elect")


class WorkerSigns:
    """Workers of one server."""

    def __init__(self, url: str) -> None:
        app = Celery("shop", broker=url, set_as_current=False)
        app.conf.update(leader_ttl=TTL, leader_wait=0.1)
        self._settings = conf.read(app)
        self.started: list[Precedence] = []

    def worker(self, name: str, beat: Any = None) -> tuple[Precedence, Candidate]:
        candidate: Any = Candidate(name)
        precedence = Precedence(self._settings, candidate, beat)
        precedence.start()
        precedence.start()
        self.started.append(precedence)
        return precedence, candidate


@pytest.fixture
def stage_of() -> Iterator[Callable[[str], WorkerSigns]]:
    made: list[WorkerSigns] = []

    def make(url: str) -> WorkerSigns:
        made.append(WorkerSigns(url))
        return made[-1]

    yield make
    for stage in made:
        for precedence in stage.started:
            precedence.close()


@pytest.fixture
def client(valkey_server: Server) -> Iterator[redis.Redis]:
    with valkey_server.client() as made:
        yield made


def test_the_sign_is_there_while_the_beat_runs_and_its_worker_takes_part(
    valkey_server: Server, client: redis.Redis, stage_of: Callable[[str], WorkerSigns]
) -> None:
    beat = SimpleNamespace(runs=False)
    _, candidate = stage_of(valkey_server.url).worker("one", beat)
    threading.Event().wait(0.3)
    assert client.get(SIGN) is None
    beat.runs = True
    wait_until(lambda: client.get(SIGN) == "one", 30, "the sign")
    assert 0 < client.pttl(SIGN) <= 3000 * TTL
    # It is renewed as long as both is so, and expires after that.
    candidate.leader.active = False
    wait_until(lambda: client.get(SIGN) is None, 30, "the end of the sign")
    candidate.leader.active = True
    wait_until(lambda: client.get(SIGN) == "one", 30, "the sign again")
    beat.runs = False
    wait_until(lambda: client.get(SIGN) is None, 30, "the end of the sign")


def test_a_worker_that_ends_takes_away_its_own_sign_only(
    valkey_server: Server, client: redis.Redis, stage_of: Callable[[str], WorkerSigns]
) -> None:
    stage = stage_of(valkey_server.url)
    first, _ = stage.worker("one", SimpleNamespace(runs=True))
    wait_until(lambda: client.get(SIGN) == "one", 30, "the sign")
    first.close()
    assert client.get(SIGN) is None
    second, candidate = stage.worker("two", SimpleNamespace(runs=True))
    wait_until(lambda: client.get(SIGN) == "two", 30, "the sign")
    candidate.leader.active = False
    client.set(SIGN, "three", px=60_000)
    second.close()
    assert client.get(SIGN) == "three"


def test_a_worker_without_a_beat_stays_away_as_long_as_the_sign_is_there(
    valkey_server: Server, client: redis.Redis, stage_of: Callable[[str], WorkerSigns]
) -> None:
    _, candidate = stage_of(valkey_server.url).worker("two")
    client.set(SIGN, "one", px=60_000)
    wait_until(lambda: candidate.told == ["resign"], 30, lambda: str(candidate.told))
    client.delete(SIGN)
    wait_until(lambda: candidate.told == ["resign", "elect"], 30, lambda: str(candidate.told))


def test_without_redis_all_stays_as_it_is(
    valkey_server: Server, client: redis.Redis, stage_of: Callable[[str], WorkerSigns]
) -> None:
    with Proxy(valkey_server.port) as link:
        _, candidate = stage_of(link.url()).worker("two")
        client.set(SIGN, "one", px=60_000)
        wait_until(lambda: candidate.told == ["resign"], 30, lambda: str(candidate.told))
        link.black_hole()
        client.delete(SIGN)
        threading.Event().wait(1.0)
        assert candidate.told == ["resign"]
        link.heal()
        wait_until(lambda: candidate.told == ["resign", "elect"], 30, lambda: str(candidate.told))
