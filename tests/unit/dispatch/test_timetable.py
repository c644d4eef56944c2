"""When entries have to be looked at, and what of them waits for its moment."""

from __future__ import annotations

from typing import Any

import pytest
from celery.beat import ScheduleEntry
from celery.schedules import schedule

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch import timetable as timetable_module
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.timetable import EARLIEST, Timetable
from celery_safe_leader._dispatch.waiting import Run, Waiting
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._schedules.missed import Policy

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND
EARLY = round(EARLIEST * SECOND)


class Own(schedule):
    """A class of the user's."""

    def is_due(self, last_run_at: Any) -> Any:
        raise NotImplementedError


class Broken:
    """A rule that raises."""

    def __init__(self, rule: Any) -> None:
        self.exact = rule.exact

    def after(self, moment_us: int) -> int:
        return moment_us // 0


def item(name: str, last: int, every: Any = 10) -> Entry:
    when = every if isinstance(every, schedule) else schedule(every)
    made = read_entry(ScheduleEntry(name=name, task="t", schedule=when, app=None), Policy.COALESCE)
    made.run = LastRun(last, 1, last, made.rule.fingerprint)
    return made


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable_module, "now_us", lambda: NOW)


def filled(*items: Entry) -> Timetable:
    timetable = Timetable()
    for one in items:
        timetable.schedule(one)
    return timetable


def due_in(seconds: float, name: str = "e") -> Entry:
    return item(name, NOW - 10 * SECOND + round(seconds * SECOND))


def test_what_is_due_soon_is_taken_at_its_moment_and_what_is_late_now() -> None:
    timetable = filled(due_in(0.1, "soon"), due_in(-3, "late"), due_in(5, "later"))
    assert timetable.take(NOW, 10) == [(NOW, "late"), (NOW + SECOND // 10, "soon")]
    assert timetable.take(NOW, 10) == []
    assert timetable.next_us() == NOW + 5 * SECOND - EARLY + 50_000


def test_what_is_spread_over_time_is_taken_together() -> None:
    timetable = filled(*(due_in(0.2 + n / 100, f"e{n}") for n in range(30)))
    first = timetable.take(NOW, 100)
    assert [moment for moment, _ in first] == [NOW + 200_000 + 10_000 * n for n in range(11)]
    assert timetable.take(NOW + 10_000, 100) == []
    assert timetable.next_us() == NOW + 60_000
    assert len(timetable.take(NOW + 60_000, 100)) == 6


def test_no_more_are_taken_than_asked_for() -> None:
    timetable = filled(*(due_in(-n, f"e{n}") for n in range(5)))
    assert [name for _, name in timetable.take(NOW, 2)] == ["e4", "e3"]


def test_a_schedule_of_an_unknown_class_is_taken_at_its_moment_and_not_before() -> None:
    timetable = Timetable()
    own = item("own", NOW, Own(10))
    timetable.put(own, NOW + SECOND // 10)
    assert timetable.take(NOW, 10) == []
    assert not timetable.has_before(NOW + SECOND // 10)
    assert timetable.next_us() == NOW + SECOND // 10
    assert timetable.take(NOW + SECOND // 10, 10) == [(NOW + SECOND // 10, "own")]


def test_it_tells_what_is_due_before_a_moment_that_is_near() -> None:
    timetable = filled(due_in(0.1))
    assert not timetable.has_before(NOW + 99_999)
    assert timetable.has_before(NOW + 100_000)
    timetable.remove("e")
    assert not timetable.has_before(NOW + SECOND)
    assert timetable.next_us() is None


def test_a_schedule_that_fails_is_named_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    broken = due_in(0.1)
    broken.rule = Broken(broken.rule)  # type: ignore[assignment]
    timetable = filled(broken, due_in(0.1, "other"))
    assert "The schedule of entry 'e' fails: ZeroDivisionError" in caplog.text
    assert [name for _, name in timetable.take(NOW, 10)] == ["other"]
    assert timetable.next_us() == NOW + 60 * SECOND - EARLY + 50_000


def job(name: str, moment: int) -> Run:
    return Run(due_in(0, name), Claim(name, f"id-{name}", moment, moment, "f", 7))


def test_held_runs_come_in_the_order_of_their_moments() -> None:
    held = Waiting()
    held.add([job("c", 30), job("a", 10), job("b", 20)])
    assert (len(held), held.next_us()) == (3, 10)
    assert [one.item.name for one in held.take(25, 10)] == ["a", "b"]
    assert [one.item.name for one in held.take(25, 10)] == []
    assert (len(held), held.next_us()) == (1, 30)


def test_held_runs_are_withdrawn_by_name_or_all() -> None:
    held = Waiting()
    held.add(job(name, moment) for moment, name in enumerate("abcd"))
    assert [one.item.name for one in held.withdraw(["b", "unknown"])] == ["b"]
    assert [one.item.name for one in held.take(100, 1)] == ["a"]
    assert {one.item.name for one in held.withdraw(None)} == {"c", "d"}
    assert (len(held), held.next_us()) == (0, None)
    held.add([job("a", 5)])
    held.clear()
    assert held.take(100, 10) == []
