"""When a leader that cannot dispatch stands down."""

from __future__ import annotations

import pytest

from celery_safe_leader._dispatch.health.patience import Cause, Patience


def fail_for(patience: Patience, seconds: float, *, at: float = 100.0, step: float = 5.0) -> None:
    """Let it fail again and again, for exactly so long."""
    moment = at
    while moment < at + seconds:
        patience.failed(moment, Cause.BROKER)
        moment += step
    patience.failed(at + seconds, Cause.BROKER)


def test_it_runs_out_once_everything_has_failed_for_so_long():
    patience = Patience(60)
    fail_for(patience, 59.9)
    assert patience.exhausted() is None
    patience.failed(160.0, Cause.LEDGER)
    assert patience.exhausted() is Cause.LEDGER


def test_one_run_that_is_published_sets_it_back():
    patience = Patience(60)
    fail_for(patience, 55)
    patience.published()
    fail_for(patience, 55, at=155)
    assert patience.exhausted() is None


def test_failures_far_apart_are_not_one_trouble():
    patience = Patience(60)
    for moment in (100.0, 130.1, 160.2, 190.3, 3600.0):
        patience.failed(moment, Cause.BROKER)
        assert patience.exhausted() is None


def test_what_failed_in_an_earlier_tenure_does_not_count():
    patience = Patience(60)
    fail_for(patience, 55)
    patience.begin()
    patience.failed(160.0, Cause.BROKER)
    assert patience.exhausted() is None


def test_nothing_due_is_no_failure():
    assert Patience(60).exhausted() is None


def test_a_single_step_may_use_it_up():
    patience = Patience(60)
    patience.ran_out(100.0, Cause.PROCESS)
    assert patience.exhausted() is Cause.PROCESS
    patience.stand_down()
    assert patience.exhausted() is None


def test_each_time_in_a_row_doubles_it_up_to_an_hour_and_success_sets_it_back():
    patience = Patience(60)
    assert [patience.stand_down() for _ in range(8)] == [
        *(120, 240, 480, 960, 1920, 3600, 3600, 3600)
    ]
    assert patience.is_in_doubt
    fail_for(patience, 3599)
    assert patience.exhausted() is None
    patience.published()
    assert not patience.is_in_doubt
    assert patience.seconds == 60


@pytest.mark.parametrize("ttl", [3600.0, 7200.0])
def test_one_that_is_as_long_from_the_start_stays_so(ttl: float):
    assert Patience(ttl).stand_down() == max(ttl, 3600.0)


@pytest.mark.parametrize(("left", "seconds"), [(0.0, 60), (240.0, 240), (30.0, 60)])
def test_a_process_goes_on_with_the_patience_of_the_one_before_it(left: float, seconds: float):
    patience = Patience(60)
    patience.inherit(left)
    assert patience.seconds == seconds
    assert patience.is_in_doubt is (seconds > 60)
    patience.published()
    assert patience.seconds == 60
