"""Runs that the broker did not take yet."""

from __future__ import annotations

import pytest

from celery_safe_leader._dispatch.unsettled import Unsettled
from celery_safe_leader._ledger.codec import Claim
from tests.support.clock import Clock

ERROR = OSError("no broker")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("celery_safe_leader._dispatch.unsettled.time", clock)
    return clock


def claim(name: str, moment: int = 0) -> Claim:
    return Claim(name, f"id-{name}-{moment}", moment, moment, "f", 1)


A, B, BAD = claim("a", 1), claim("b", 2), claim("bad", 0)


def test_what_was_never_tried_goes_at_once_together_the_oldest_first(clock: Clock):
    unsettled = Unsettled()
    for each in (B, BAD, A):
        unsettled.add(each)
    assert unsettled.ready(100) == [BAD, A, B]
    assert unsettled.ready(2) == [BAD, A]
    assert unsettled.next_in() == 0.0
    assert unsettled.broker_pause() <= 0


def test_after_a_failure_the_broker_rests_longer_each_time_but_5_s_at_most(clock: Clock):
    unsettled = Unsettled()
    pauses = []
    for _ in range(9):
        unsettled.failed([A], ERROR)
        pauses.append(unsettled.broker_pause())
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert pauses[-1] == 5.0


def test_a_batch_that_failed_twice_is_taken_apart(clock: Clock):
    unsettled = Unsettled()
    for _ in range(2):
        unsettled.failed([A, B, BAD], ERROR)
        clock.now += 1
    assert unsettled.ready(100) == [BAD]


def test_without_a_connection_nothing_is_held_against_a_run(clock: Clock):
    unsettled = Unsettled()
    unsettled.failed([BAD, A, B], ERROR)  # the request in which the connection broke
    for pause in (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0):
        clock.now += pause
        assert unsettled.ready(100) == [BAD, A, B]
        unsettled.failed([], ERROR)
        assert unsettled.broker_pause() == pytest.approx(pause)
    unsettled.published()
    clock.now += 5.0
    assert unsettled.ready(100) == [BAD, A, B]


def test_the_one_at_fault_waits_while_the_others_go(clock: Clock):
    unsettled = Unsettled()
    for _ in range(2):
        unsettled.failed([A, B, BAD], ERROR)
        clock.now += 1
    unsettled.failed([BAD], ERROR)
    clock.now += 1
    assert unsettled.ready(100) == []
    assert unsettled.ready(100) == [A]
    unsettled.published()
    unsettled.discard("a")
    assert unsettled.broker_pause() <= 0
    assert unsettled.ready(100) == [B]
    unsettled.discard("b")
    unsettled.failed([BAD], ERROR)
    assert unsettled.ready(100) == []
    unsettled.add(claim("a", 5))
    assert unsettled.ready(100) == [claim("a", 5)]
    assert unsettled.next_in() == 0.0


def test_after_one_at_fault_alone_was_tried_what_is_newly_due_has_its_turn(clock: Clock):
    """The broker's rest and the run's own end together, or nothing else would ever be tried."""
    unsettled, turns = Unsettled(), 0
    unsettled.failed([BAD], ERROR)
    for _ in range(6):
        clock.now += max(unsettled.broker_pause(), 0.0)
        tried = unsettled.ready(100)
        turns += not tried
        if tried:
            unsettled.failed(tried, ERROR)
    assert turns == 2
    assert unsettled.next_in() is not None


def test_the_next_run_of_an_entry_begins_without_the_failures_of_the_last(clock: Clock):
    unsettled = Unsettled()
    for _ in range(4):
        unsettled.failed([A], ERROR)
    unsettled.add(A)
    assert [unsettled.ready(100), unsettled.ready(100)] == [[], []]
    unsettled.add(claim("a", 9))
    assert unsettled.ready(100) == [claim("a", 9)]


def test_one_that_is_refused_while_others_are_accepted_is_named_once_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    unsettled = Unsettled()
    unsettled.add(BAD)
    assert not unsettled.refused(BAD, "queue 'q'", ERROR)  # it may be the broker
    unsettled.failed([BAD], ERROR)
    assert not unsettled.refused(BAD, "queue 'q'", ERROR)
    unsettled.published()
    caplog.clear()
    for _ in range(12):
        clock.now += 6.0
        assert unsettled.refused(BAD, "queue 'q'", ERROR)
        assert unsettled.broker_pause() <= 0
        assert unsettled.ready(100) == []
    assert unsettled.next_in() == pytest.approx(5.0)
    told = [text for text in caplog.messages if "Entry 'bad': queue 'q' does not take" in text]
    assert len(told) == len(caplog.messages) == 2


def test_an_outage_is_one_error_and_its_end_one_line(
    clock: Clock, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    unsettled = Unsettled()
    unsettled.published()
    for _ in range(5):
        unsettled.failed([A, B], ERROR)
    unsettled.published()
    unsettled.published()
    levels = [record.levelname for record in caplog.records]
    assert levels == ["ERROR", "INFO"]
    assert "2 runs wait" in caplog.messages[0]
    assert "no broker" in caplog.messages[0]


def test_nothing_unsettled_has_no_next_attempt(clock: Clock):
    unsettled = Unsettled()
    unsettled.add(A)
    unsettled.clear()
    assert unsettled.next_in() is None
    assert len(unsettled) == 0
