"""Receivers in a real beat: told of tenures and runs, in order, at nobody's cost."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.beat import Scheduler

from celery_safe_leader import signals
from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.integration.beat.driven_leaders import HOUR, SCRIPTED, WRITE_AHEAD, DrivenLeaders
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.services import BeatService, shop
from tests.support.processes import wait_until
from tests.support.servers import Server

ALL = ("leader_elected", "leader_demoted", "run_published", "run_missed")
TICK = {"tick": {"task": "shop.work", "schedule": 0.1}}


class Mixed(LeaderSchedulerMixin, Scheduler):
    """Celery's own scheduler, which keeps nothing."""


class Heard:
    """What receivers were told."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []
        self.threads: set[str] = set()

    def hear(self, name: str) -> Callable[..., None]:
        def receive(**fields: Any) -> None:
            self.threads.add(threading.current_thread().name)
            self.all.append((name, fields))

        return receive

    def of(self, name: str) -> list[dict[str, Any]]:
        return [fields for told, fields in list(self.all) if told == name]


@pytest.fixture
def connect() -> Iterator[Callable[[str, Any], None]]:
    connected: list[tuple[Any, Any]] = []

    def connect(name: str, receiver: Any) -> None:
        signal = getattr(signals, name)
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.fixture
def heard(connect: Callable[[str, Any], None]) -> Heard:
    heard = Heard()
    for name in ALL:
        connect(name, heard.hear(name))
    return heard


def queued(server: Server, key: str) -> list[str]:
    import json

    client: Any = server.client(decode_responses=False)
    return [json.loads(raw)["headers"]["id"] for raw in reversed(client.lrange(key, 0, -1))]


@pytest.mark.parametrize("database", [0, 1], ids=["one database", "two databases"])
def test_a_tenure_from_its_first_run_to_its_end(
    valkey_server: Server, key: str, heard: Heard, database: int
) -> None:
    url = valkey_server.url.removesuffix("/0") + f"/{database}"
    leave_resigned(url, key, "beat")
    app = shop(valkey_server.url, key, TICK, leader_url=url)
    with BeatService(app):
        wait_until(lambda: len(heard.of("run_published")) > 3, 30)
    names = [name for name, _ in heard.all]
    assert names[0] == "leader_elected"
    assert names[-1] == "leader_demoted"
    assert set(names[1:-1]) == {"run_published"}
    ((_, first), *_rest), (_, last) = heard.all, heard.all[-1]
    assert (last["fencing_token"], last["reason"]) == (first["fencing_token"], "shutdown")
    runs = heard.of("run_published")
    assert [run["task_id"] for run in runs] == queued(valkey_server, key)
    for run in runs:
        assert run["way"] == (SCRIPTED if database == 0 else WRITE_AHEAD)
        assert (run["entry"], run["fencing_token"]) == ("tick", first["fencing_token"])
        assert run["first"] <= run["due"]
        assert run["sender"].startswith("beat@")
        assert run["election"] == f"{key}:beat"
    assert heard.threads == {"leader:signals"}


def test_schedulers_under_the_mixin_tell_it_as_well(
    valkey_server: Server, key: str, heard: Heard
) -> None:
    leave_resigned(valkey_server.url, key, "beat")
    app = shop(valkey_server.url, key, TICK, leader_url=valkey_server.url)
    with BeatService(app, scheduler=Mixed):
        wait_until(lambda: len(heard.of("run_published")) > 2, 30)
    names = [name for name, _ in heard.all]
    assert (names[0], names[-1]) == ("leader_elected", "leader_demoted")
    runs = heard.of("run_published")
    assert [run["task_id"] for run in runs] == queued(valkey_server, key)[: len(runs)]
    assert {run["due"] for run in runs} == {None}


def test_who_blocks_raises_or_exits_costs_nobody_a_run(
    valkey_server: Server, key: str, connect: Callable[[str, Any], None]
) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def exits(**_: Any) -> None:
        sys.exit(3)

    def raises(**_: Any) -> None:
        raise ValueError("no")

    def blocks(**_: Any) -> None:
        blocked.set()
        go_on.wait(60)

    for receiver in (exits, raises, blocks):
        connect("run_published", receiver)
    leave_resigned(valkey_server.url, key, "beat")
    app = shop(valkey_server.url, key, TICK, leader_url=valkey_server.url)
    with BeatService(app) as beat:
        wait_until(blocked.is_set, 30)
        before = len(queued(valkey_server, key))
        wait_until(lambda: len(queued(valkey_server, key)) > before + 5, 30)
        assert beat.leads
    assert not go_on.is_set(), "nobody waited for it"
    go_on.set()


def test_missed_runs_are_told_with_their_reason(
    valkey_server: Server, key: str, heard: Heard
) -> None:
    leaders = DrivenLeaders(valkey_server, key)
    skipped = leaders.entry("skipped", -120.0, options={"leader": {"missed_runs": "skip"}})
    expired = leaders.entry(
        "expired", -5.0, options={"expires": 1, "leader": {"expires_from": "due"}}
    )
    broken = leaders.entry("broken", -5.0, HOUR, args=(object(),))
    app = leaders.app(skipped=skipped, expired=expired, broken=broken)
    leader = leaders.leader(app)
    leader.scheduler._events.announces = False
    leader.dispatcher._events = leader.scheduler._events
    leader.run_for(0.3)
    wait_until(lambda: len(heard.of("run_missed")) == 3, 30, lambda: str(heard.all))
    reasons = {each["entry"]: (each["reason"], each["count"]) for each in heard.of("run_missed")}
    assert reasons == {
        "skipped": ("too-late", 1),
        "expired": ("expired", 1),
        "broken": ("given-up", 1),
    }
    for close in reversed(leaders.closing):
        close()
