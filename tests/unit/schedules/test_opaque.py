from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from celery.schedules import BaseSchedule, schedstate

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules import asked as asked_module
from celery_safe_leader._schedules.asked import Asked
from celery_safe_leader._schedules.missed import DueRun, DueRuns
from celery_safe_leader._schedules.moments import to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id, successor_id
from celery_safe_leader._schedules.opaque import SHORTEST_PAUSE_US, OpaqueRule
from celery_safe_leader._schedules.rule import ScheduleError
from tests.unit.schedules.almanac import app_in

S = 1_000_000


class Lunar(BaseSchedule):
    """Says what it was told to say, and notes what it was asked."""

    def __init__(self, answer: object) -> None:
        super().__init__(app=app_in("Europe/Berlin"))
        self.answer = answer
        self.asked: list[datetime] = []

    def is_due(self, last_run_at: datetime) -> object:
        self.asked.append(last_run_at)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def __repr__(self) -> str:
        return "<lunar>"


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked_module, "steady_us", lambda: 0)


def unknown(answer: object) -> OpaqueRule:
    return rule_of(Lunar(answer))


def rule_of(lunar: Lunar) -> OpaqueRule:
    rule = rule_for(lunar, 20.0)
    assert isinstance(rule, OpaqueRule)
    assert not rule.exact
    return rule


def due_runs(rule: OpaqueRule, base_us: int, now_us: int) -> DueRuns:
    return Asked().due_runs(rule, base_us, now_us)


def test_it_is_asked_with_the_last_run_in_its_own_zone() -> None:
    lunar = Lunar(schedstate(False, 30.0))
    assert due_runs(rule_of(lunar), 7 * S, 9 * S) == DueRuns((), 0, 0, 39 * S, 7 * S)
    assert lunar.asked == [to_datetime(7 * S)]
    assert lunar.asked[0].utcoffset() == timedelta(hours=1)


def test_due_run_covers_all_since_the_last() -> None:
    found = due_runs(unknown((True, 30)), 7 * S, 9 * S)
    assert found == DueRuns((DueRun(7 * S + 1, 9 * S),), 0, 0, 39 * S, 7 * S)


def test_its_runs_rise_also_if_the_clock_stepped_back() -> None:
    found = due_runs(unknown((True, 30)), 7 * S, 5 * S)
    assert found.runs == (DueRun(7 * S + 1, 7 * S + 1),)


def test_schedule_that_wants_to_be_asked_at_once_is_no_hot_loop() -> None:
    assert due_runs(unknown((True, 0)), 0, S).next_due == S + SHORTEST_PAUSE_US
    assert due_runs(unknown((False, -3.0)), 0, S).next_due == S + SHORTEST_PAUSE_US


def test_schedule_that_does_not_say_when_to_ask_again_is_asked_as_by_stock_beat() -> None:
    assert due_runs(unknown((False, None)), 0, S).next_due == 21 * S  # max_interval
    assert due_runs(unknown((True, None)), 0, S).next_due == S + SHORTEST_PAUSE_US


def test_schedule_that_is_over_is_not_asked_again() -> None:
    for_ever = float("inf")
    assert due_runs(unknown((True, for_ever)), 0, S) == DueRuns((DueRun(1, S),), 0, 0, None, 0)
    assert due_runs(unknown((False, for_ever)), 0, S).next_due is None


def test_a_pause_of_any_length_is_a_pause() -> None:
    for seconds in (1e300, 10**400, 1e18):
        pause = unknown((False, seconds)).ask(0).pause_us
        assert pause is None or pause > 10**15
    assert unknown((False, -(10.0**300))).ask(0).pause_us == SHORTEST_PAUSE_US


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ZeroDivisionError("by zero"), r"schedule <lunar> failed in is_due: ZeroDivisionError"),
        (True, r"schedule <lunar> failed in is_due: TypeError"),
        ((True, "soon"), r"schedule <lunar> failed in is_due: ValueError"),
        ((True, float("nan")), r"schedule <lunar> wants to be asked again in nan s"),
    ],
)
def test_answer_that_is_none_is_an_error_that_names_the_schedule(
    answer: object, message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        due_runs(unknown(answer), 0, S)


def test_error_of_the_schedule_is_the_cause() -> None:
    with pytest.raises(ScheduleError) as caught:
        unknown(ZeroDivisionError("by zero")).ask(0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_its_moments_cannot_be_predicted() -> None:
    with pytest.raises(ScheduleError, match="unknown class"):
        unknown((True, 1)).after(0)


def test_id_of_its_run_is_not_that_of_the_run_before() -> None:
    # A run of an interval at this moment, then the entry got an unknown schedule.
    assert successor_id("k", "e", 7 * S) != occurrence_id("k", "e", 7 * S)
