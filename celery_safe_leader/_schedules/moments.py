"""Moments: whole microseconds since 1970 in UTC, and their conversions."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

__all__ = [
    "DAY_US",
    "LAST_US",
    "MINUTE_US",
    "SECOND_US",
    "from_datetime",
    "from_timedelta",
    "now_us",
    "steady_us",
    "to_datetime",
]

SECOND_US = 1_000_000
"""Microseconds in a second."""
MINUTE_US = 60 * SECOND_US
DAY_US = 24 * 60 * MINUTE_US
"""Microseconds in a day of 24 hours."""

LAST_US = 253_339_228_800 * SECOND_US
"""No moment lies after this one, 9998-01-01: ``datetime`` ends soon after."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def now_us() -> int:
    """Return the wall clock in microseconds since 1970, which due moments are compared with."""
    return time.time_ns() // 1000


def steady_us() -> int:
    """Return microseconds of a clock that is never set, to measure how long something lasts."""
    return time.monotonic_ns() // 1000


def to_datetime(moment_us: int) -> datetime:
    """Return a moment as an aware ``datetime`` in UTC, without rounding."""
    return _EPOCH + timedelta(microseconds=moment_us)


def from_datetime(when: datetime) -> int:
    """Return a ``datetime`` as a moment, without rounding. Without a zone it is taken as UTC."""
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    return from_timedelta(when - _EPOCH)


def from_timedelta(length: timedelta) -> int:
    """Return a length of time in whole microseconds."""
    return length // _MICROSECOND
