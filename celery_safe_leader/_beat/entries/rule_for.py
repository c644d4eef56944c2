"""From a Celery schedule to its rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timezone, tzinfo
from typing import Any

from celery import schedules

from celery_safe_leader._beat.entries.celery_clocks import own_now, zone_followed
from celery_safe_leader._schedules.crontab import Crontab
from celery_safe_leader._schedules.interval import Interval, RelativeInterval, step_of
from celery_safe_leader._schedules.opaque import DEFAULT_MAX_INTERVAL, OpaqueRule
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader._schedules.solar import Solar
from celery_safe_leader._schedules.zones import zone_of

__all__ = ["rule_for"]

# The methods that compute the moments of a class. A subclass that replaces one is not known.
_SHARED = ("is_due", "remaining_estimate", "maybe_make_aware", "to_local")
_ARITHMETIC = {
    schedules.schedule: (*_SHARED, "seconds"),
    schedules.crontab: (*_SHARED, "remaining_delta", "_delta_to_next"),
    schedules.solar: (*_SHARED, "_next_event"),
}


def rule_for(
    schedule: Any,
    max_interval: float = DEFAULT_MAX_INTERVAL,
    tz: Callable[[], tzinfo] = lambda: timezone.utc,
) -> Rule:
    """Return the rule of a schedule.

    It follows the installed Celery as to clock and zone. What cannot be computed is asked.

    Args:
        schedule: What ``beat_schedule`` holds, after ``maybe_schedule``: an interval, a crontab,
            a solar schedule, or any object with ``is_due``.
        max_interval: Seconds after which a schedule is asked again that does not say when to.
        tz: Returns the time zone of the app, for a schedule that has neither zone nor clock.

    Raises:
        ScheduleError: It can never be followed: an interval below 1 ms, a date that does not
            exist, no ``is_due``.
        Exception: What the schedule's own code raises.
    """
    known = _known_class(schedule)
    if known is schedules.schedule:
        step_us = step_of(schedule)
    zone = None if known is None else zone_followed(schedule, known)
    if zone is not None:
        if known is schedules.crontab:
            return Crontab(schedule, _fields(schedule), zone_of(zone))
        if known is schedules.solar:
            return Solar(schedule)
        if schedule.relative:
            return RelativeInterval(schedule, step_us, zone_of(zone))
        return Interval(schedule, step_us)
    if not callable(getattr(schedule, "is_due", None)):
        raise ScheduleError(safe_repr(schedule), "is not a schedule: it has no is_due()")
    own_tz = getattr(schedule, "tz", None)
    shown_in = own_tz if isinstance(own_tz, tzinfo) else tz()
    return OpaqueRule(schedule, shown_in, max_interval, now=own_now(schedule))


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
