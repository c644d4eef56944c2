"""A schedule that can only be asked is left alone for as long as it said."""

from __future__ import annotations

from typing import Any

import pytest
from celery.schedules import BaseSchedule

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules import asked as asked_module
from celery_safe_leader._schedules.asked import Asked
from celery_safe_leader._schedules.missed import DueRun, DueRuns
from celery_safe_leader._schedules.opaque import OpaqueRule
from tests.unit.schedules.almanac import app_in

S = 1_000_000


class Oracle(BaseSchedule):
    """Gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        super().__init__(app=app_in("UTC"))
        self.answers = list(answers)
        self.questions = 0

    def is_due(self, last_run_at: Any) -> Any:
        self.questions += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class AskedSchedule:
    """A schedule that is asked, at moments in seconds of a clock that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Any) -> None:
        self.oracle = Oracle(*answers)
        rule = rule_for(self.oracle)
        assert isinstance(rule, OpaqueRule)
        self.rule, self.asked, self.steady = rule, Asked(), 0.0
        monkeypatch.setattr(asked_module, "steady_us", lambda: int(self.steady * S))

    def due(self, base: int, now: float, lateness: float = float("inf")) -> DueRuns:
        self.steady = now
        return self.asked.due_runs(self.rule, base * S, int(now * S), lateness * S)

    def next(self, base: int, now: float) -> float | None:
        self.steady = now
        moment = self.asked.next_us(base * S, int(now * S))
        return None if moment is None else moment / S


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda *answers: AskedSchedule(monkeypatch, *answers)


def test_after_its_run_it_is_left_alone_for_as_long_as_it_said(stage: Any) -> None:
    always = stage((True, 60))
    assert always.due(0, 10).runs == (DueRun(1, 10 * S),)
    assert always.next(10, 11) == 70
    assert always.due(10, 69).runs == ()
    assert always.oracle.questions == 1
    assert always.due(10, 70).runs == (DueRun(10 * S + 1, 70 * S),)
    assert always.oracle.questions == 2


def test_one_that_is_not_due_is_left_alone_too_also_if_somebody_else_ran_it(stage: Any) -> None:
    later = stage((False, 60))
    assert later.due(0, 10).next_due == 70 * S
    assert later.next(30, 40) == 70
    assert later.due(30, 41).next_due == 70 * S
    assert later.oracle.questions == 1


def test_that_it_is_due_holds_until_the_run_is_recorded(stage: Any) -> None:
    once = stage((True, 5), (False, 1000))
    for now in (10, 11, 30, 5000):  # the ledger is paused, or the broker is away
        assert once.next(0, now) in (0, 10)
        assert once.due(0, now).runs == (DueRun(1, 10 * S),)
    assert once.oracle.questions == 1
    assert once.next(10, 5000) == 5000
    assert once.due(10, 5000).runs == ()
    assert once.oracle.questions == 2


def test_a_run_that_is_too_late_is_dropped_and_the_schedule_is_asked_when_it_said(
    stage: Any,
) -> None:
    late = stage((True, 60), (False, 60))
    assert late.due(0, 10, 5).runs
    assert late.due(0, 16, 5) == DueRuns((), 0, 1, 70 * S, 0)
    assert late.oracle.questions == 1
    assert late.due(0, 70, 5).runs == ()
    assert late.oracle.questions == 2


def test_each_run_that_is_too_late_counts_once_until_another_is_recorded(stage: Any) -> None:
    often = stage(*[(True, 60)] * 4)
    assert often.due(0, 10, 5).dropped == 0
    assert [often.due(0, now, 5).dropped for now in (16, 17, 69)] == [1, 1, 1]
    assert often.due(0, 70, 5) == DueRuns((DueRun(1, 70 * S),), 0, 1, 130 * S, 0)
    assert [often.due(0, now, 5).dropped for now in (76, 77)] == [2, 2]
    assert often.due(0, 130, 5).dropped == 2
    assert often.due(130, 190, 5) == DueRuns(
        (DueRun(130 * S + 1, 190 * S),), 0, 0, 250 * S, 130 * S
    )


def test_one_that_is_over_is_never_looked_at_again(stage: Any) -> None:
    over = stage((True, float("inf")))
    assert over.due(0, 10).runs == (DueRun(1, 10 * S),)
    assert over.next(10, 11) is None
    assert over.due(10, 10**6).runs == ()
    assert over.oracle.questions == 1


def test_a_clock_that_is_set_back_does_not_make_it_wait_longer(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = stage((False, 60))
    back.due(0, 10_000)
    monkeypatch.setattr(asked_module, "steady_us", lambda: 10_061 * S)
    assert back.asked.next_us(0, 5_000 * S) == 5_000 * S


def test_an_error_is_no_answer(stage: Any) -> None:
    wrong = stage(ValueError("no"), (True, 60))
    with pytest.raises(Exception, match="failed in is_due"):
        wrong.due(0, 10)
    assert wrong.due(0, 10).runs == (DueRun(1, 10 * S),)
