"""The judge of the beats has to see a double and a loss where there is one."""

from __future__ import annotations

from tests.support.celery.inbox import Dispatch, by_two, gaps


def dispatch(at: float, pid: int, first: int, last: int, task_id: str = "") -> Dispatch:
    covers = (first * 1_000_000, last * 1_000_000)
    return Dispatch(
        at, "work", task_id or f"{pid}-{first}", f"gen{pid}@host", 1, covers, {}, "()", "{}"
    )


def test_two_beats_that_send_at_once_are_seen():
    one, other = dispatch(1.0, 7, 1, 1), dispatch(1.4, 8, 1, 1)
    assert by_two([other, one], 0.5) == [(one, other)]


def test_two_beats_one_after_the_other_are_no_fault():
    assert by_two([dispatch(1.0, 7, 1, 1), dispatch(1.6, 8, 2, 2)], 0.5) == []


def test_one_beat_may_send_as_often_as_it_likes():
    assert by_two([dispatch(1.0, 7, 1, 1), dispatch(1.1, 7, 2, 2)], 0.5) == []


def test_a_moment_that_no_message_stands_for_is_seen():
    one, other = dispatch(1.0, 7, 1, 1), dispatch(3.0, 7, 3, 3)
    assert gaps([one, other], 1.0) == [(one, other)]


def test_a_moment_that_two_messages_stand_for_is_seen():
    one, other = dispatch(1.0, 7, 1, 2), dispatch(3.0, 7, 2, 3)
    assert gaps([one, other], 1.0) == [(one, other)]


def test_a_message_may_stand_for_several_moments():
    assert gaps([dispatch(1.0, 7, 1, 1), dispatch(5.0, 8, 2, 5)], 1.0) == []


def test_a_run_that_was_published_twice_counts_once():
    one, other = dispatch(1.0, 7, 1, 1, "a"), dispatch(4.0, 8, 1, 1, "a")
    assert gaps([one, other, dispatch(5.0, 8, 2, 5)], 1.0) == []
