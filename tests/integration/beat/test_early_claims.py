"""Runs are claimed before their moment, and published at it: what may happen in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from celery.beat import BeatLazyFunc
from celery.schedules import schedule

from celery_safe_leader.errors import StoreUnavailableError
from tests.integration.beat.early_stage import DrivenLeaders, Queue
from tests.support.celery.services import shop
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

SOON = 0.5
"""Seconds: so much that a busy machine has claimed it long before."""


@pytest.fixture(autouse=True)
def _claims_are_early(monkeypatch: pytest.MonkeyPatch) -> None:
    timetable = "celery_safe_leader._dispatch.timetable"
    monkeypatch.setattr(f"{timetable}._EARLIEST_US", 1_000_000)
    monkeypatch.setattr(f"{timetable}._BEGIN_US", 900_000)


@pytest.fixture
def stage(quick_server: Server, key: str) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(quick_server, key)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture
def queue(quick_server: Server, key: str) -> Iterator[Queue]:
    queue = Queue(quick_server, key)
    yield queue
    queue.close()


def test_a_run_is_claimed_before_its_moment_and_published_at_it(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(soon=stage.entry("soon", SOON), rare=stage.entry("rare", 60)))
    leader.run()
    assert stage.pending() == {"soon"}
    assert queue.sent() == []
    leader.run_for(SOON + 0.1)
    [sent] = queue.wait_for(1)
    assert -0.001 < sent.late < PATIENCE
    assert stage.pending() == set()


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


def test_what_is_removed_in_between_is_not_published_and_leaves_no_claim(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(gone=stage.entry("gone", SOON), kept=stage.entry("kept", SOON)))
    leader.run()
    runs: Any = stage.client.hget(stage.names.runs, "gone")
    assert stage.pending() == {"gone", "kept"}
    del leader.app.conf.beat_schedule["gone"]
    leader.run()
    assert "gone" not in stage.pending()
    leader.run_for(SOON + 0.1)
    assert [sent.headers["kwargsrepr"] for sent in queue.wait_for(1)] == ["{'entry': 'kept'}"]
    assert stage.client.hget(stage.names.runs, "gone") == runs


def test_what_is_changed_in_between_follows_the_new_schedule_alone(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(e=stage.entry("e", SOON)))
    leader.run()
    assert stage.pending() == {"e"}
    changed = time.time()
    leader.app.conf.beat_schedule["e"] = {**stage.entry("new", 0.0), "schedule": 0.3}
    leader.run_for(0.5)
    [sent] = queue.wait_for(1)
    assert sent.headers["kwargsrepr"] == "{'entry': 'new'}"
    assert sent.covers[0] >= changed * 1e6


@pytest.mark.parametrize("way", ["dies", "resigns"])
def test_the_next_leader_publishes_what_was_claimed_early_once_and_at_its_moment(
    stage: DrivenLeaders, queue: Queue, way: str
) -> None:
    entry = stage.entry("e", SOON)
    first = stage.leader(stage.app(e=entry))
    first.run()
    assert stage.pending() == {"e"}
    if way == "resigns":
        first.dispatcher.finish()
        assert stage.pending() == set()
    second = stage.leader(stage.app(e=entry))
    second.run_for(SOON + 0.1)
    [sent] = queue.wait_for(1)
    assert -0.001 < sent.late < PATIENCE
    assert sent.headers["leader_token"] == 2
    assert stage.pending() == set()
    assert stage.again() == (1 if way == "dies" else 0)


def test_a_leader_that_is_demoted_in_between_publishes_nothing(
    stage: DrivenLeaders, queue: Queue
) -> None:
    leader = stage.leader(stage.app(e=stage.entry("e", SOON)))
    leader.run()
    leader.still_leads = lambda: False
    leader.run_for(SOON + 0.1)
    assert queue.sent() == []
    assert stage.pending() == {"e"}


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
    assert stage.pending() == {"e"}


@pytest.mark.parametrize("heir", [False, True], ids=["its own", "inherited"])
def test_a_clock_that_is_set_back_while_a_run_waits_loses_nothing(
    stage: DrivenLeaders, queue: Queue, monkeypatch: pytest.MonkeyPatch, heir: bool
) -> None:
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LEAD_IN", 0.3)
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds._LONGEST_LEAD_IN", 0.3)
    app, behind, waits_from = stage.app(e=stage.entry("e", 0.7)), 0, time.time() + 0.45
    leader = stage.leader(app)
    leader.run()
    if heir:
        leader = stage.leader(app)
        leader.run()

    def shifted() -> int:
        return time.time_ns() // 1000 - behind

    for module in ("rounds", "claims"):
        monkeypatch.setattr(f"celery_safe_leader._dispatch.{module}.now_us", shifted)

    def still_leads() -> bool:
        nonlocal behind
        if time.time() > waits_from:
            behind = 700_000
        return True

    leader.still_leads = still_leads
    while not behind:
        time.sleep(0.01)
        leader.dispatch()
    assert queue.sent() == []
    leader.run_for(1.5)
    [sent] = queue.wait_for(1)
    assert sent.late > 0.5
    assert stage.pending() == set()


def test_what_looks_at_the_clock_is_built_at_the_moment(stage: DrivenLeaders, queue: Queue) -> None:
    entry = stage.entry("e", SOON, args=(BeatLazyFunc(time.time),))
    leader = stage.leader(stage.app(e=entry, other=stage.entry("other", SOON)))
    leader.run()
    assert stage.pending() == {"e", "other"}
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
    for module in ("rounds", "claims", "memory", "timetable"):
        monkeypatch.setattr(f"celery_safe_leader._dispatch.{module}.now_us", lambda: now)
    leader = stage.leader(app)
    leader.run()
    assert stage.pending() == {"e"}
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
    assert len(stage.pending()) >= 6
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
            patch.setattr("celery_safe_leader._dispatch.memory.Ledger.enrol", _no_answer)
            assert leader.run() > 0
    leader.run_for(SOON + 0.3)
    assert len(queue.wait_for(1)) == 1
    assert len(queue.sent("new")) == 1
    assert stage.pending() == set()


def _no_answer(*args: object) -> None:
    raise StoreUnavailableError("election", "timed out")
