"""When entries have to be looked at."""

from __future__ import annotations

from typing import Any

import pytest
from celery.beat import ScheduleEntry
from celery.schedules import schedule

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch import timetable as timetable_module
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.timetable import EARLIEST, Timetable
from celery_safe_leader._ledger.codec import LastRun
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


def make_entry(name: str, last: int, every: Any = 10) -> Entry:
    when = every if isinstance(every, schedule) else schedule(every)
    made = read_entry(ScheduleEntry(name=name, task="t", schedule=when, app=None), Policy.COALESCE)
    made.last_run = LastRun(last, 1, last, made.rule.fingerprint)
    return made


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timetable_module, "now_us", lambda: NOW)


def filled(*entries: Entry) -> Timetable:
    timetable = Timetable()
    for one in entries:
        timetable.schedule(one)
    return timetable


def due_in(seconds: float, name: str = "e") -> Entry:
    return make_entry(name, NOW - 10 * SECOND + round(seconds * SECOND))


def test_what_is_due_soon_is_taken_at_its_moment_and_what_is_late_now() -> None:
    timetable = filled(due_in(0.1, "soon"), due_in(-3, "late"), due_in(5, "later"))
    assert timetable.pop_due(NOW, 10) == [(NOW, "late"), (NOW + SECOND // 10, "soon")]
    assert timetable.pop_due(NOW, 10) == []
    assert timetable.next_us() == NOW + 5 * SECOND - EARLY + 50_000


def test_what_is_spread_over_time_is_taken_together() -> None:
    timetable = filled(*(due_in(0.2 + n / 100, f"e{n}") for n in range(30)))
    first = timetable.pop_due(NOW, 100)
    assert [moment for moment, _ in first] == [NOW + 200_000 + 10_000 * n for n in range(11)]
    assert timetable.pop_due(NOW + 10_000, 100) == []
    assert timetable.next_us() == NOW + 60_000
    assert len(timetable.pop_due(NOW + 60_000, 100)) == 6


def test_no_more_are_taken_than_asked_for() -> None:
    timetable = filled(*(due_in(-n, f"e{n}") for n in range(5)))
    assert [name for _, name in timetable.pop_due(NOW, 2)] == ["e4", "e3"]


def test_a_schedule_of_an_unknown_class_is_taken_at_its_moment_and_not_before() -> None:
    timetable = Timetable()
    own = make_entry("own", NOW, Own(10))
    timetable.put(own, NOW + SECOND // 10)
    assert timetable.pop_due(NOW, 10) == []
    assert not timetable.has_before(NOW + SECOND // 10)
    assert timetable.next_us() == NOW + SECOND // 10
    assert timetable.pop_due(NOW + SECOND // 10, 10) == [(NOW + SECOND // 10, "own")]


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
    assert [name for _, name in timetable.pop_due(NOW, 10)] == ["other"]
    assert timetable.next_us() == NOW + 60 * SECOND - EARLY + 50_000


def test_setting_a_schedule_again_and_again_keeps_the_timetable_flat() -> None:
    year = 365 * 86_400
    timetable = Timetable()
    for turn in range(60):
        for number in range(500):
            # Now and then it is of a class that can only be asked.
            every = Own(year) if (number + turn) % 5 == 0 else year
            entry = make_entry(f"e{number}", NOW - number * SECOND - turn, every)
            timetable.remove(entry.name)
            timetable.put(entry, NOW + year * SECOND - number * SECOND - turn)
    agendas = (timetable._known, timetable._asked)
    assert sum(map(len, agendas)) == 500
    assert sum(len(agenda._heap) for agenda in agendas) <= 2 * 500 + 2 * 64


def test_what_was_taken_out_is_not_done_until_it_gets_its_next_moment() -> None:
    first, other = due_in(-5.0, "first"), due_in(3.0, "other")
    timetable = filled(first, other)
    assert timetable.oldest_us() == NOW - 5 * SECOND
    timetable.pop_due(NOW, 9)
    timetable.put_off(first, NOW + 60 * SECOND)
    assert timetable.oldest_us() == NOW - 5 * SECOND, "it is looked at again, not done"
    assert timetable.pop_due(NOW + 60 * SECOND, 9) == [
        (NOW + 60 * SECOND, "other"),
        (NOW + 60 * SECOND, "first"),
    ]
    timetable.put(first, NOW + 90 * SECOND)
    assert timetable.oldest_us() == NOW + 3 * SECOND
    timetable.remove("other")
    assert timetable.oldest_us() == NOW + 90 * SECOND
    timetable.remove("first")
    assert timetable.oldest_us() is None


def test_what_is_being_built_stays_among_the_first_until_it_gets_its_next_moment() -> None:
    soon, later, last = due_in(0.2, "soon"), due_in(30, "later"), due_in(60, "last")
    timetable = filled(soon, later, last)
    moments = [
        (NOW + SECOND // 5, "soon"),
        (NOW + 30 * SECOND, "later"),
        (NOW + 60 * SECOND, "last"),
    ]
    assert timetable.pop_due(NOW, 10) == moments[:1]
    assert timetable.first(10) == moments
    assert timetable.first(2) == moments[:2]
    timetable.put_off(soon, NOW + 90 * SECOND)
    assert timetable.first(10) == moments, "it is looked at later, and still owed"
    timetable.put(soon, NOW + 10 * SECOND)
    assert timetable.first(10) == [(NOW + 10 * SECOND, "soon"), *moments[1:]]
