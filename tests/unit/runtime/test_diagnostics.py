"""Warnings that save a night: jumps of the clock, and a ttl that is too short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime.diagnostics import Diagnostics

START = Instant(100.0, 50.0, 1.7e9)


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 0.7])
def test_a_jump_of_the_wall_clock_is_told_once(
    caplog: pytest.LogCaptureFixture, jump: float
) -> None:
    diagnostics = Diagnostics("shop:beat", 10.0)
    diagnostics.note_moment(START)
    assert texts(caplog) == []
    for seconds in (1.0, 2.0):
        later = START.plus(seconds)
        diagnostics.note_moment(replace(later, wall=later.wall + seconds * jump))
    (told,) = texts(caplog)
    assert f"wall clock jumped by {jump:.1f} s" in told
    assert "\n" not in told


def test_slewing_suspends_and_long_pauses_are_no_jumps(caplog: pytest.LogCaptureFixture) -> None:
    diagnostics, now = Diagnostics("shop:beat", 10.0), START
    diagnostics.note_moment(now)
    for passed, wall, raw in ((3600.0, 3601.8, 3600.0), (30.0, 30.0, 0.0), (1.0, 1.4, 1.0)):
        now = Instant(now.boottime + passed, now.raw + raw, now.wall + wall)
        diagnostics.note_moment(now)
    assert texts(caplog) == []


def test_round_trips_of_a_third_of_the_ttl_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    diagnostics = Diagnostics("shop:beat", 3.0)
    for seconds in (1.1, 1.0, 0.001, 1.2, 0.95):
        diagnostics.note_round_trip(seconds)
    assert texts(caplog) == []
    for _ in range(5):
        diagnostics.note_round_trip(1.0)
    (told,) = texts(caplog)
    assert "the last 3 requests took 0.95 s or longer" in told
    assert "the ttl of 3 s" in told
    assert "set at least 9.5 s" in told
