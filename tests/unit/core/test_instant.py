"""Moments on three clocks."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant

EARLY = Instant(10.0, 20.0, 30.0)


@pytest.mark.parametrize(
    ("later", "longest", "shortest"),
    [
        (Instant(15.0, 25.0, 35.0), 5.0, 5.0),
        (Instant(15.0, 24.0, 36.0), 6.0, 4.0),
        (Instant(15.0, 26.0, 33.0), 6.0, 5.0),
        (Instant(16.0, 21.0, 36.0), 6.0, 1.0),  # five seconds of it suspended
        (Instant(11.0, 21.0, 3631.0), 3601.0, 1.0),  # the wall clock was set forward
        (Instant(11.0, 21.0, -3569.0), 1.0, 1.0),  # and back
    ],
)
def test_a_leader_counts_the_most_and_a_standby_the_least(
    later: Instant, longest: float, shortest: float
) -> None:
    assert later.longest_since(EARLY) == longest
    assert later.shortest_since(EARLY) == shortest


def test_plus_moves_every_clock() -> None:
    assert EARLY.plus(1.5) == Instant(11.5, 21.5, 31.5)


DEADLINE = EARLY.plus(10.0)


@pytest.mark.parametrize("clock", ["boottime", "raw", "wall"])
def test_a_lease_ends_when_the_first_clock_reaches_the_deadline(clock: str) -> None:
    fields = {"boottime": 11.0, "raw": 21.0, "wall": 31.0}
    lease = Lease(1, DEADLINE, EARLY)
    assert lease.valid(Instant(**fields))
    fields[clock] = getattr(DEADLINE, clock)
    assert not lease.valid(Instant(**fields))
    assert lease.remaining(Instant(**fields)) == 0.0


def test_what_remains_is_what_the_fastest_clock_leaves() -> None:
    assert Lease(1, DEADLINE, EARLY).remaining(Instant(11.0, 22.0, 33.0)) == 7.0
    assert Lease(1, DEADLINE, EARLY).remaining(EARLY.plus(11.0)) == 0.0
