"""Claimed runs that wait for their moment."""

from __future__ import annotations

from celery.beat import ScheduleEntry
from celery.schedules import schedule

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.run import Run
from celery_safe_leader._dispatch.waiting import Waiting
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._schedules.missed import Policy


def make_entry(name: str) -> Entry:
    return read_entry(
        ScheduleEntry(name=name, task="t", schedule=schedule(10), app=None), Policy.COALESCE
    )


def run_of(name: str, moment: int) -> Run:
    return Run.of(make_entry(name), Claim(name, f"id-{name}", moment, moment, "f", 7))


def test_waiting_runs_come_in_the_order_of_their_moments() -> None:
    waiting = Waiting()
    waiting.add([run_of("c", 30), run_of("a", 10), run_of("b", 20)])
    assert (len(waiting), waiting.next_us()) == (3, 10)
    assert [one.entry.name for one in waiting.pop_due(25, 10)] == ["a", "b"]
    assert [one.entry.name for one in waiting.pop_due(25, 10)] == []
    assert (len(waiting), waiting.next_us()) == (1, 30)


def test_waiting_runs_are_withdrawn_by_name_or_all() -> None:
    waiting = Waiting()
    waiting.add(run_of(name, moment) for moment, name in enumerate("abcd"))
    assert [one.entry.name for one in waiting.withdraw(["b", "unknown"])] == ["b"]
    assert [one.entry.name for one in waiting.pop_due(100, 1)] == ["a"]
    assert {one.entry.name for one in waiting.withdraw(None)} == {"c", "d"}
    assert (len(waiting), waiting.next_us()) == (0, None)
    waiting.add([run_of("a", 5)])
    waiting.clear()
    assert waiting.pop_due(100, 10) == []
