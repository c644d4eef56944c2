"""A leader whose schedules are not those of the one before makes up for what the old ones owe."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from celery_safe_leader._dispatch.memory import owed_runs
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader.errors import StoreRefusedError
from tests.integration.beat.driven_leaders import (
    DrivenLeaders,
    Leader,
    Queue,
    ticked,
)
from tests.support.processes.waiting import PATIENCE, wait_until

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(owed_runs, "_FIRST_AFTER", 0.0)
    caplog.set_level(logging.INFO, "celery_safe_leader.beat")


def noted(stage: DrivenLeaders) -> dict[bytes, bytes]:
    found: Any = stage.client.hgetall(f"{{leader:{stage.key}}}:beat:next")
    found.pop(b"celery.backend_cleanup", None)  # an entry of Celery's own
    return found


def first_leader(stage: DrivenLeaders, **more: Any) -> tuple[float, int]:
    """Let a leader note when "odd" is due, and die before; return the moment, and its last run."""
    due = time.time() + 1.5
    odd = stage.entry("odd", 1.5, **more)
    leader = stage.leader(stage.app(odd=odd, even=stage.entry("even", HOUR / 2)))
    wait_until(lambda: ticked(leader) and len(noted(stage)) == 2, PATIENCE)
    last = leader.scheduler._roster.entries["odd"].last_run
    assert last is not None
    return due, last.base


def other(stage: DrivenLeaders, step: float, **more: Any) -> Leader:
    """Make a leader with another schedule for "odd", and the same for "even"."""
    odd = {"task": "shop.work", "schedule": step, "kwargs": {"entry": "odd"}, **more}
    return stage.leader(stage.app(odd=odd, even=stage.entry("even", HOUR / 2)))


def test_what_the_old_schedule_owes_runs_once_and_the_entry_is_named(
    stage: DrivenLeaders, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    due, last = first_leader(stage)
    wait_until(lambda: time.time() > due, PATIENCE)
    leader = other(stage, HOUR + 7)
    wait_until(lambda: ticked(leader) and queue.sent("odd"), PATIENCE)
    [warning] = [r.getMessage() for r in caplog.records if "not those of" in r.getMessage()]
    assert (
        "The schedules of 1 entries are not those of the leader before: 'odd'. If nobody" in warning
    )
    assert "1 runs that were due by the old ones are made up for" in warning
    # A third schedule: nothing is owed any more.
    third = other(stage, HOUR + 9)
    for _ in range(5):
        ticked(third)
    [sent] = queue.sent("odd")
    assert sent.covers[0] == last + 1
    assert sent.covers[1] >= due * 1e6 - 1000
    record = third.scheduler._roster.entries["odd"].last_run
    assert record is not None
    assert record.moment == sent.covers[1]
    assert record.count == 1
    assert not queue.sent("even")


def test_what_is_not_due_yet_by_the_old_schedule_is_not_owed(
    stage: DrivenLeaders, queue: Queue
) -> None:
    first_leader(stage, every=2 * HOUR)
    odd = stage.entry("odd", HOUR)
    leader = stage.leader(stage.app(odd=odd, even=stage.entry("even", HOUR / 2)))
    for _ in range(3):
        ticked(leader)
    assert not queue.sent("odd")


def test_a_leader_that_dies_before_the_run_owes_it_to_the_next(
    stage: DrivenLeaders, queue: Queue
) -> None:
    due, last = first_leader(stage)
    wait_until(lambda: time.time() > due, PATIENCE)
    second = other(stage, HOUR + 7)
    second.still_leads = lambda: False
    second.run()
    third = other(stage, HOUR + 9)
    wait_until(lambda: ticked(third) and queue.sent("odd"), PATIENCE)
    ticked(third)
    [sent] = queue.sent("odd")
    assert sent.covers[0] == last + 1


def test_policy_decides_whether_it_is_too_late(stage: DrivenLeaders, queue: Queue) -> None:
    due, _ = first_leader(stage)
    wait_until(lambda: time.time() > due + 1.0, PATIENCE)
    leader = other(stage, HOUR + 7, options={"leader": {"max_lateness": 0.5}})
    for _ in range(3):
        ticked(leader)
    assert not queue.sent("odd")


def test_a_note_that_is_older_than_the_last_run_tells_by_its_pause(
    stage: DrivenLeaders, queue: Queue
) -> None:
    """The first leader noted the entry, ran it once more, and died at once."""
    first = stage.leader(stage.app(odd=stage.entry("odd", 0.5, every=2.0)))
    wait_until(lambda: ticked(first) and noted(stage), PATIENCE)
    wait_until(lambda: ticked(first) and queue.sent("odd"), PATIENCE)
    [sent] = queue.sent("odd")
    wait_until(lambda: time.time() > sent.covers[1] / 1e6 + 2.1, PATIENCE)
    leader = stage.leader(stage.app(odd=stage.entry("odd", HOUR)))
    wait_until(lambda: ticked(leader) and len(queue.sent("odd")) == 2, PATIENCE)
    assert queue.sent("odd")[1].covers[0] == sent.covers[1] + 1


def test_notes_follow_entries_that_come_and_go_and_cost_nothing_while_nothing_changes(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owed_runs, "_EVERY", 0.1)
    written: list[Any] = []
    for name in ("note_next", "drop_next"):
        original = getattr(Ledger, name)

        def count(self: Ledger, some: Any, original: Any = original) -> None:
            if some:
                written.append(some)
            original(self, some)

        monkeypatch.setattr(Ledger, name, count)
    app = stage.app(a=stage.entry("a", HOUR), tick=stage.entry("tick", 0.2, every=0.3))
    leader = stage.leader(app)
    wait_until(lambda: ticked(leader) and len(noted(stage)) == 2, PATIENCE)
    app.conf.beat_schedule["b"] = stage.entry("b", HOUR)
    del app.conf.beat_schedule["a"]
    wait_until(lambda: ticked(leader) and set(noted(stage)) == {b"b", b"tick"}, PATIENCE)
    before = len(written)
    for _ in range(10):
        ticked(leader)  # the interval runs at the pauses that are noted
    assert len(written) == before
    # Redis loses both.
    stage.client.delete(stage.names.runs, f"{{leader:{stage.key}}}:beat:next")
    wait_until(lambda: ticked(leader) and len(noted(stage)) == 2, PATIENCE)


def test_without_the_right_it_goes_without_and_says_so_once(
    stage: DrivenLeaders,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refused(*args: Any) -> Any:
        raise StoreRefusedError(stage.key, "NOPERM no")

    monkeypatch.setattr(Ledger, "note_next", refused)
    monkeypatch.setattr(Ledger, "read_next", refused)
    monkeypatch.setattr(owed_runs, "_AFTER_ERROR", 0.0)
    leader = stage.leader(stage.app(tick=stage.entry("tick", 0.2, every=0.2)))
    wait_until(lambda: ticked(leader) and len(queue.sent("tick")) > 4, PATIENCE)
    assert caplog.text.count("is not noted for a leader with other schedules") == 1
    other = stage.leader(stage.app(tick=stage.entry("tick", 0.2, every=0.3)))
    count = len(queue.sent("tick"))
    wait_until(lambda: ticked(other) and len(queue.sent("tick")) > count + 2, PATIENCE)
