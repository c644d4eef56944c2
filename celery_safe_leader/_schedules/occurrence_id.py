"""From a Celery schedule to its rule, and from a due moment to the id of its run."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timezone
from hashlib import sha1
from typing import Any
from uuid import UUID

from celery import schedules

from celery_safe_leader._schedules.crontab import Crontab
from celery_safe_leader._schedules.interval import Interval, RelativeInterval, step_of
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from celery_safe_leader._schedules.solar import Solar
from celery_safe_leader._schedules.opaque import Unknown
from celery_safe_leader._schedules.zones import zone_of

__all__ = ["Rule", "ScheduleError", "occurrence_id", "rule_for", "successor_id"]

# Of this project, and fixed: another value would give every run in flight a second id.
_NAMESPACE = UUID("3f4fc0ef-54fe-42bd-af55-87f18344e88c")

# What carries the arithmetic of a class. A subclass that replaces any of it is not known.
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
        raise ScheduleError(repr(schedule), "is no schedule: it has no is_due()")
    return Unknown(schedule, getattr(schedule, "tz", timezone.utc))


def occurrence_id(key: str, entry: str, moment_us: int) -> str:
    """Return the task id of the run that an entry owes at a moment."""
    return _id(key, entry, "at", moment_us)


def successor_id(key: str, entry: str, last_us: int) -> str:
    """Return the task id of the run after ``last_us``, for a rule that is not ``exact``.

    It is never that of the run *at* ``last_us``, which may have been another schedule's.
    """
    return _id(key, entry, "after", last_us)


def _id(key: str, entry: str, relation: str, moment_us: int) -> str:
    # Lengths, since names may contain any separator. The same as str(uuid5(...)), in a fifth of
    # its time: it is done for every run.
    name = f"{len(key)}:{key}{len(entry)}:{entry}{relation}:{moment_us}"
    hashed = sha1(_NAMESPACE.bytes + name.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    raw = bytearray(hashed.digest()[:16])
    raw[6] = raw[6] & 0x0F | 0x50  # version 5
    raw[8] = raw[8] & 0x3F | 0x80  # variant of RFC 9562
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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
