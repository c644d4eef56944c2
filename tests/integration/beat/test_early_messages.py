"""Messages are built before their moment, and published at it: what may happen in between.

Nothing of a run is in Redis before its moment, whichever way it is published.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from celery.beat import BeatLazyFunc
from celery.schedules import schedule

from celery_safe_leader.errors import StoreUnavailableError
from tests.integration.beat.driven_leaders import (
    WRITE_AHEAD,
    DrivenLeaders,
    Queue,
)
from tests.support.celery.services import shop
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

SOON = 0.9
"""Seconds: so much that a busy machine has built it long before."""


@pytest.fixture(autouse=True)
def _messages_are_early(monkeypatch: pytest.MonkeyPatch) -> None:
    timetable = "celery_safe_leader._dispatch.timetable"
    monkeypatch.setattr(f"{timetable}._EARLIEST_US", 1_500_000)
    monkeypatch.setattr(f"{timetable}._BEGIN_US", 1_400_000)


def test_nothing_of_a_run_is_in_redis_before_its_moment(stage: DrivenLeaders, queue: Queue) -> None:
    leader = stage.leader(stage.app(soon=stage.entry("soon", SOON), rare=stage.entry("rare", 60)))
    leader.run()
    before = stage.runs()
    leader.run()
    assert leader.built() == {"soon"}
    assert stage.pending() == set()
    assert stage.runs() == before
    assert queue.sent() == []
    leader.run_for(SOON + 0.1)
    [sent] = queue.wait_for(1)
    assert -0.001 < sent.late < PATIENCE
    assert sent.way == stage.takes
    assert stage.pending() == set()
    assert stage.runs()["soon"] != before["soon"]


def test_a_burst_is_published_in_one_piece_and_not_before_its_moment(
    stage: DrivenLeaders, queue: Queue
) -> None:
    due = 1.0
    entries = {f"e{n}": stage.entry(f"e{n}", due) for n in range(200)}
    moment = entries["e0"]["last_run_at"]
    for entry in entries.values():
        entry["last_run_at"] = moment
    leader = stage.leader(stage.app(**entries))
    leader.run()
    leader.run_for(due + 0.3)
    every = queue.wait_for(200)
    assert all(sent.late > -0.001 for sent in every)
    assert len({sent.headers["id"] for sent in every}) == 200
    assert stage.pending() == set()


def test_what_is_removed_in_between_is_not_published(stage: DrivenLeaders, queue: Queue) -> None:
    leader = stage.leader(stage.app(gone=stage.entry("gone", SOON), kept=stage.entry("kept", SOON)))
    leader.run()
    runs = stage.runs()["gone"]
    assert leader.built() == {"gone", "kept"}
    del leader.app.conf.beat_schedule["gone"]
    leader.run()
    assert leader.built() == {"kept"}
    leader.run_for(SOON + 0.1)
    assert [sent.headers["kwargsrepr"] for sent in queue.wait_for(1)] == ["{'entry': 'kept'}"]
    assert stage.runs()["gone"] == runs


def test_what_is_changed_in_between_follows_the_new_schedule_alone(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(e=stage.entry("e", SOON)))
    leader.run()
    assert leader.built() == {"e"}
    changed = time.time()
    leader.app.conf.beat_schedule["e"] = {**stage.entry("new", 0.0), "schedule": 0.3}
    leader.run_for(0.5)
    [sent] = queue.wait_for(1)
    assert sent.headers["kwargsrepr"] == "{'entry': 'new'}"
    assert sent.covers[0] >= changed * 1e6


@pytest.mark.parametrize("end", ["dies", "resigns"])
def test_the_next_leader_publishes_what_was_built_once_and_at_its_moment(
    stage: DrivenLeaders, queue: Queue, end: str
) -> None:
    entry = stage.entry("e", SOON)
    first = stage.leader(stage.app(e=entry))
    first.run()
    assert first.built() == {"e"}
    if end == "resigns":
        first.dispatcher.finish()
    second = stage.leader(stage.app(e=entry))
    second.run_for(SOON + 0.1)
    [sent] = queue.wait_for(1)
    assert -0.001 < sent.late < PATIENCE
    assert sent.headers["leader_token"] == 2
    assert stage.pending() == set()
    assert stage.again() == 0


def test_a_claim_that_an_older_leader_left_early_is_published_once_and_at_its_moment(
    stage: DrivenLeaders, queue: Queue
) -> None:
    first = stage.leader(stage.app(e=stage.entry("e", 60)))
    first.run()
    claim = stage.claim("e", SOON)
    second = stage.leader(stage.app(e=stage.entry("e", 60)))
    second.run_for(SOON + 0.1)
    [sent] = queue.wait_for(1)
    assert -0.001 < sent.late < PATIENCE
    assert sent.headers["id"] == claim.occurrence
    assert sent.way == WRITE_AHEAD
    assert stage.pending() == set()
    assert stage.again() == 1


def test_a_leader_that_is_demoted_in_between_publishes_nothing(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(e=stage.entry("e", SOON)))
    leader.run()
    leader.still_leads = lambda: False
    leader.run_for(SOON + 0.1)
    assert queue.sent() == []
    assert stage.pending() == set()


def test_waiting_for_a_moment_ends_with_the_leadership(
    stage: DrivenLeaders, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LEAD_IN", 10.0)
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LONGEST_LEAD_IN", 10.0)
    leader = stage.leader(stage.app(e=stage.entry("e", 0.85)))
    asked = []

    def still_leads() -> bool:
        asked.append(time.time())
        return len(asked) < 5  # the round has begun, and waits

    leader.still_leads = still_leads
    leader.dispatch()
    assert len(asked) < 10, "it went on asking, up to the moment"
    leader.still_leads = lambda: False
    leader.run_for(0.9)
    assert queue.sent() == []
    assert stage.pending() == set()


@pytest.mark.parametrize("heir", [False, True], ids=["its own", "inherited"])
def test_a_clock_that_is_set_back_while_a_run_waits_loses_nothing(
    stage: DrivenLeaders, queue: Queue, monkeypatch: pytest.MonkeyPatch, heir: bool
) -> None:
    now = time.time_ns() // 1000
    for module in ("rounds", "outbox", "memory.memory", "timetable"):
        monkeypatch.setattr(f"celery_safe_leader._dispatch.{module}.now_us", lambda: now)
    app = stage.app(e=stage.entry("e", 60 if heir else SOON))
    leader = stage.leader(app)
    leader.run()
    entry = leader.scheduler._roster.entries["e"]
    moment = entry.next_us() or 0
    if heir:
        moment = stage.claim("e", SOON).moment
        leader = stage.leader(app)
        leader.run()
    now = moment - 1_000
    asked = 0

    def still_leads() -> bool:
        nonlocal now, asked
        asked += 1
        now = moment - 700_000 if asked > 1 else now  # the first question begins the round
        return True

    leader.still_leads = still_leads
    leader.dispatch()
    assert asked > 1
    assert queue.sent() == []
    leader.still_leads = lambda: True
    now = moment + 10_000
    leader.run()
    leader.run()
    assert len(queue.wait_for(1)) == 1
    assert stage.pending() == set()


def test_what_looks_at_the_clock_is_built_at_the_moment(stage: DrivenLeaders, queue: Queue) -> None:
    entry = stage.entry("e", SOON, args=(BeatLazyFunc(time.time),))
    leader = stage.leader(stage.app(e=entry, other=stage.entry("other", SOON)))
    leader.run()
    assert leader.built() == {"other"}
    leader.run_for(SOON + 0.1)
    queue.wait_for(2)
    [sent] = queue.sent("e'")
    evaluated = float(sent.headers["argsrepr"].strip("(,)[]"))
    assert evaluated >= sent.covers[1] / 1e6
    assert sent.late < PATIENCE


def test_a_run_that_waited_too_long_is_given_back_to_its_policy(
    stage: DrivenLeaders,
    queue: Queue,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    own = {"leader": {"max_lateness": 0.3}}
    app = stage.app(e=stage.entry("e", SOON, options=own))
    now = time.time_ns() // 1000
    for module in ("rounds", "outbox", "memory.memory", "timetable"):
        monkeypatch.setattr(f"celery_safe_leader._dispatch.{module}.now_us", lambda: now)
    leader = stage.leader(app)
    leader.run()
    assert leader.built() == {"e"}
    now += round((SOON + 0.5) * 1_000_000)  # as for a process that was stopped
    leader.run()
    assert queue.sent() == []
    assert stage.pending() == set()
    assert "1 are too late to run" in caplog.text


class Counted(schedule):
    """A class of the user's, which answers for itself, and counts how often it is asked."""

    asked: ClassVar[list[tuple[float, bool]]] = []

    def is_due(self, last_run_at: Any) -> Any:
        answer = super().is_due(last_run_at)
        self.asked.append((time.time(), bool(answer[0])))
        return answer


def test_a_schedule_of_an_unknown_class_is_asked_when_it_wants_to_be(
    stage: DrivenLeaders, queue: Queue
) -> None:
    Counted.asked.clear()
    leader = stage.leader(stage.app(e={**stage.entry("e", 0.4, 1.0), "schedule": Counted(1.0)}))
    leader.run_for(0.8)
    wait_until(queue.sent, 30)
    assert len(queue.sent()) == 1
    assert [is_due for _, is_due in Counted.asked].count(True) == 1
    assert len(Counted.asked) < 6


def test_after_an_outage_of_the_broker_what_waited_goes_out_in_order(
    start_server: Callable[..., Server], stage: DrivenLeaders
) -> None:
    broker = start_server()
    entries = {f"e{n}": stage.entry(f"e{n}", 0.05 * n, options={}) for n in range(12)}
    app = shop(broker.url, stage.key, entries, leader_url=stage.server.url)
    leader = stage.leader(app)
    broker.stop()
    leader.run_for(0.9)
    assert leader.run() > 0, "it does not rest while the broker is away"
    broker.start()
    client = broker.client(decode_responses=True)

    def all_are_there() -> bool:
        leader.run_for(0.1)
        return client.llen(stage.key) >= 12

    wait_until(all_are_there, 30)
    raw: Any = client.lrange(stage.key, 0, -1)
    order = [text.split("'entry': '")[1].split("'")[0] for text in reversed(raw)]
    assert order == sorted(order, key=lambda name: int(name[1:]))
    assert stage.pending() == set()


@pytest.mark.parametrize("trouble", ["no answer", "ledger lost"])
def test_an_entry_that_is_added_while_redis_has_trouble_is_taken_up_after_it(
    stage: DrivenLeaders, queue: Queue, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    leader = stage.leader(stage.app(rare=stage.entry("rare", 60)))
    leader.run()
    leader.app.conf.beat_schedule["new"] = stage.entry("new", SOON)
    leader.app.conf.beat_schedule["rare"] = stage.entry("changed", SOON)
    if trouble == "ledger lost":
        stage.client.delete(stage.names.runs, stage.names.pending)
        leader.run()
    else:
        with monkeypatch.context() as patch:
            patch.setattr("celery_safe_leader._dispatch.memory.memory.Ledger.enrol", _no_answer)
            assert leader.run() > 0
    leader.run_for(SOON + 0.3)
    assert len(queue.wait_for(1)) == 1
    assert len(queue.sent("new")) == 1
    assert stage.pending() == set()


def _no_answer(*args: object, **more: object) -> None:
    raise StoreUnavailableError("election", "timed out")


def test_all_that_is_claimed_is_asked_about_while_the_ledger_is_paused(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds.BATCH", 3)
    names = [f"e{n}" for n in range(7)]
    entries = {name: stage.entry(name, 60) for name in names}
    stage.leader(stage.app(**entries)).run()
    for name in names:
        stage.claim(name, -1.0)
    assert stage.pause(1)
    second = stage.leader(stage.app(**entries))
    for _ in range(3):
        assert second.run() > 0
    assert stage.again() == len(names)
    assert stage.messages() == []
    assert stage.pause(1, resumed=True)
    second.run()
    assert len(stage.messages()) == len(names)
