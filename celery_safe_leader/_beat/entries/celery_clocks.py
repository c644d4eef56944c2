"""By which clock and in which zone the installed Celery reads a schedule."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone, tzinfo
from typing import Any

import celery
from celery import schedules
from celery.utils.time import timezone as celery_timezone

from celery_safe_leader._schedules.frames import is_true

__all__ = ["own_now", "zone_followed"]

_KEEPS_ZONE_OF_NOW = (celery.VERSION.major, celery.VERSION.minor) < (5, 7)
"""Up to Celery 5.6 a crontab is read in the zone of what ``now()`` returns, from 5.7 on in its
``tz``."""


def own_now(schedule: Any) -> Callable[[], Any] | None:
    """Return the clock of a schedule that has one of its own; ``None`` if it is the app's."""
    now = getattr(schedule, "now", None)
    if not callable(now):
        return None
    if not isinstance(schedule, schedules.BaseSchedule):
        return now  # type: ignore[no-any-return]
    inherited = type(schedule).now is schedules.BaseSchedule.now and "now" not in vars(schedule)
    return None if inherited and schedule.nowfun is None else now


def zone_followed(schedule: Any, known: type) -> tzinfo | None:
    """Return the zone in which Celery reads a schedule of a class that it knows.

    Args:
        schedule: An interval, a crontab or a solar schedule.
        known: Which of them.

    Returns:
        ``None`` if it cannot be known beforehand: then the schedule has to be asked.
    """
    now = own_now(schedule)
    if now is None:
        return _zone_of_app(schedule, known)
    if getattr(schedule, "nowfun", None) == datetime.utcnow:
        return schedule.tz  # type: ignore[no-any-return]
    sample = now()
    if sample.tzinfo is None or not is_true(sample):
        return None
    if known is schedules.solar or (known is schedules.schedule and not schedule.relative):
        return schedule.tz  # type: ignore[no-any-return]
    if known is schedules.crontab and not _KEEPS_ZONE_OF_NOW:
        return schedule.tz  # type: ignore[no-any-return]
    # A fixed offset may be that of the season, as datetime.astimezone() gives it.
    zone: tzinfo = sample.tzinfo
    lasting = zone is timezone.utc or getattr(zone, "key", None) or getattr(zone, "zone", None)
    return zone if lasting else None


def _zone_of_app(schedule: Any, known: type) -> tzinfo | None:
    if known is not schedules.crontab or not _KEEPS_ZONE_OF_NOW:
        return schedule.tz  # type: ignore[no-any-return]
    zone: tzinfo = schedule.app.timezone
    if schedule.utc_enabled or str(zone) == str(celery_timezone.local):
        return zone
    return None  # it mixes this machine's zone in
