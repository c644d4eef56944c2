"""From a Celery schedule to its rule."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timezone
from typing import Any

from celery import schedules

from celery_safe_leader._schedules.crontab import Crontab
from celery_safe_leader._schedules.interval import Interval, RelativeInterval, step_of
from celery_safe_leader._schedules.opaque import OpaqueRule
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from celery_safe_leader._schedules.solar import Solar
from celery_safe_leader._schedules.zones import zone_of

__all__ = ["rule_for"]

# The methods that compute the moments of a class. A subclass that replaces one is not known.
_ARITHMETIC = {
    schedules.schedule: ("is_due", "remaining_estimate"),
    schedules.crontab: ("is_due", "remaining_estimate", "remaining_delta", "_delta_to_next"),
    schedules.solar: ("is_due", "remaining_estimate", "_next_event"),
}


def rule_for(schedule: Any) -> Rule:
    """Return the rule of a schedule.

    The time zone is the schedule's own ``tz``, which is its app's ``timezone``. A ``nowfun`` is not
    asked: the zone of what it returns does not count (nor does it in Celery 5.7).

    Args:
        schedule: What ``beat_schedule`` holds, after ``maybe_schedule``: an interval, a crontab,
            a solar schedule, or any object with ``is_due``.

    Raises:
        ScheduleError: It can never be followed: an interval below 1 ms, a date that does not
            exist, no ``is_due``.
    """
    known = _known_class(schedule)
    if known is schedules.schedule:
        step_us = step_of(schedule)
        if schedule.relative:
            return RelativeInterval(schedule, step_us, zone_of(schedule.tz))
        return Interval(schedule, step_us)
    if known is schedules.crontab:
        return Crontab(schedule, _fields(schedule), zone_of(schedule.tz))
    if known is schedules.solar:
        return Solar(schedule)
    if not callable(getattr(schedule, "is_due", None)):
        raise ScheduleError(repr(schedule), "is not a schedule: it has no is_due()")
    return OpaqueRule(schedule, getattr(schedule, "tz", timezone.utc))


def _known_class(schedule: Any) -> type | None:
    for known, arithmetic in _ARITHMETIC.items():
        if isinstance(schedule, known):
            own = getattr(schedule, "__dict__", {})
            same = all(
                name not in own
                and getattr(type(schedule), name, None) is getattr(known, name, None)
                for name in arithmetic
            )
            return known if same else None
    return None


def _fields(schedule: Any) -> tuple[tuple[int, ...], ...]:
    def ordered(values: Iterable[int]) -> tuple[int, ...]:
        return tuple(sorted(map(int, values)))

    return (
        ordered(schedule.minute),
        ordered(schedule.hour),
        ordered(schedule.day_of_week),
        ordered(schedule.day_of_month),
        ordered(schedule.month_of_year),
    )
