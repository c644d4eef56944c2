"""The clock of a schedule that brings its own: a zone, wall times without one, or a clock apart.

Stock beat shows a schedule its last run by the clock that it reads now from. The same moment is
found here from what the clock says now.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from celery_safe_leader._schedules.moments import (
    MINUTE_US,
    SECOND_US,
    from_datetime,
    from_timedelta,
    now_us,
    to_datetime,
)

__all__ = ["is_true", "moment_of", "shown"]

_SLACK_US = 2 * SECOND_US
"""How long it may take to read two clocks."""


def is_true(now: datetime) -> bool:
    """Return whether a clock that says so shows the present moment."""
    return abs(from_datetime(now) - now_us()) < _SLACK_US


def shown(moment_us: int, now: datetime, zone: tzinfo) -> datetime:
    """Return what a clock said at a moment.

    Args:
        moment_us: The moment.
        now: What it says now. Without a zone it may be the wall time of this machine or of
            ``zone``, whose offsets change over the year; else it is always ahead by the same.
        zone: Time zone of the schedule.
    """
    shift_us = _shift_us(now)
    if now.tzinfo is not None:
        return to_datetime(moment_us + shift_us).astimezone(now.tzinfo)
    present, then = to_datetime(now_us()), to_datetime(moment_us)
    for walls in (None, zone):  # None: this machine's
        if shift_us and shift_us == from_timedelta(_offset(present.astimezone(walls))):
            return then.astimezone(walls).replace(tzinfo=None)
    return to_datetime(moment_us + shift_us).replace(tzinfo=None)


def moment_of(when: datetime, now: datetime) -> int:
    """Return the moment at which a clock that says ``now`` at present said ``when``.

    ``when`` is by that clock, as in stock beat, unless it has a time zone and the clock has none.
    """
    is_absolute = when.tzinfo is not None and now.tzinfo is None
    return from_datetime(when) - (0 if is_absolute else _shift_us(now))


def _shift_us(now: datetime) -> int:
    """Return how far a clock is ahead, taken as UTC if it has no zone; whole minutes if it may."""
    shift_us = from_datetime(now) - now_us()
    rounded = round(shift_us / MINUTE_US) * MINUTE_US
    return rounded if abs(shift_us - rounded) < _SLACK_US else shift_us


def _offset(local: datetime) -> timedelta:
    return local.utcoffset() or timedelta()
