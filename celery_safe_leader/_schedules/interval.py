"""Interval schedules: a grid of equal steps, and Celery's ``relative=True``, rounded to the clock.

The grid has no origin of its own. It is that of the last committed moment, and since every run is
committed under a moment of the grid, whenever it really happened, the grid never drifts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from typing import Any

from celery_safe_leader._schedules.moments import (
    DAY_US,
    LAST_US,
    MINUTE_US,
    SECOND_US,
    from_timedelta,
    to_datetime,
)
from celery_safe_leader._schedules.rule import Rule, ScheduleError, digest
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader._schedules.zones import Zone, zone_name

__all__ = ["SHORTEST_US", "Interval", "RelativeInterval", "step_of"]

SHORTEST_US = 1_000
"""Shortest interval that is accepted, 1 ms: less than one dispatch takes."""

_HOUR_US = 60 * MINUTE_US


def step_of(schedule: Any) -> int:
    """Return the length of an interval schedule's step in whole microseconds.

    Raises:
        ScheduleError: It is not a ``timedelta``, or shorter than 1 ms.
    """
    run_every = schedule.run_every
    if not isinstance(run_every, timedelta):
        detail = f"has the interval {safe_repr(run_every)}; it must be a number of seconds"
        # The schedule's own repr fails without a timedelta.
        raise ScheduleError(type(schedule).__name__, detail)
    step_us = from_timedelta(run_every)
    if step_us < SHORTEST_US:
        seconds = run_every.total_seconds()
        detail = f"has an interval of {seconds} s; it must be at least 0.001 s"
        raise ScheduleError(safe_repr(schedule), detail)
    return step_us


class Interval(Rule):
    """Due every ``step_us`` microseconds, counted from the last run's moment."""

    __slots__ = ("step_us",)

    def __init__(self, schedule: Any, step_us: int) -> None:
        super().__init__(schedule, digest("interval", step_us))
        self.step_us = step_us

    def after(self, moment_us: int) -> int | None:
        """Return the next step of the grid."""
        moment = moment_us + self.step_us
        return moment if moment <= LAST_US else None

    def latest(self, after_us: int, until_us: int) -> int | None:
        """Return the last step, by a division: a gap of a year costs no more than a second."""
        steps = self.count(after_us, until_us)
        return after_us + steps * self.step_us if steps else None

    def recent(self, after_us: int, until_us: int, limit: int) -> list[int]:
        """Return the last steps of the grid that begins at ``after_us``."""
        steps = self.count(after_us, until_us)
        first = max(1, steps - limit + 1)
        return [after_us + k * self.step_us for k in range(first, steps + 1)]

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many steps there are, by a division."""
        return max(0, (min(until_us, LAST_US) - after_us) // self.step_us)


class RelativeInterval(Rule):
    """Due at whole days, hours, minutes or seconds of the local clock.

    The unit is the largest that fits into the interval, as in Celery: the moment after ``m`` is
    ``m`` plus the interval, rounded down to the unit, so 90 minutes mean every full hour. Days are
    days of the calendar. Hours and minutes are time that passes: one hour that the clocks repeat
    is two hours long. Where offsets change by half an hour, full hours are those of the offset at
    the unrounded moment.
    """

    __slots__ = ("_step_us", "_unit_us", "_zone")

    def __init__(self, schedule: Any, step_us: int, zone: Zone) -> None:
        super().__init__(schedule, digest("relative", step_us, zone_name(zone.tz)))
        self._step_us = step_us
        self._zone = zone
        units = (DAY_US, _HOUR_US, MINUTE_US, SECOND_US)
        self._unit_us = next((unit for unit in units if unit <= step_us), 1)

    def after(self, moment_us: int) -> int | None:
        """Return the moment plus the interval, rounded down to the unit, but always a later one."""
        if moment_us + self._step_us > LAST_US:
            return None
        if self._unit_us == DAY_US:
            return self._midnight_after(moment_us)
        unrounded = moment_us + self._step_us
        offset = self._zone.offset_us(unrounded)
        return unrounded - (unrounded + offset) % self._unit_us

    def recent(self, after_us: int, until_us: int, limit: int) -> list[int]:
        """Return the last due moments, found without those before them."""
        if self._unit_us == DAY_US:
            return self._recent_days(after_us, until_us, limit)
        recent: deque[int] = deque(maxlen=limit)
        for first, count in self._stretches(after_us, until_us):
            skipped = max(0, count - limit)
            recent.extend(first + k * self._grid_step for k in range(skipped, count))
        return list(recent)

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many due moments there are, by divisions."""
        if self._unit_us == DAY_US:
            return self._count_days(after_us, until_us)
        return sum(count for _, count in self._stretches(after_us, until_us))

    @property
    def _grid_step(self) -> int:
        return self._step_us - self._step_us % self._unit_us

    def _stretches(self, after_us: int, until_us: int) -> Iterator[tuple[int, int]]:
        """Yield the first and the number of due moments that are equal steps apart.

        A stretch ends where the offset of the zone changes. So many years cost as much as they have
        changes, and not as much as they have hours.
        """
        moment = self.after(after_us)
        while moment is not None and moment <= until_us:
            further = self._further(moment, until_us)
            yield moment, further + 1
            moment = self.after(moment + further * self._grid_step)

    def _further(self, moment: int, until_us: int) -> int:
        """Return how many more due moments are equal steps apart after one."""
        most = (min(until_us, LAST_US - self._step_us) - moment) // self._grid_step
        if self._unit_us < _HOUR_US:
            return max(0, most)  # no offset is changed by parts of a minute
        piece = self._zone.piece(moment)
        if len(piece.offsets_us) > 1 or (moment + piece.offsets_us[0]) % self._unit_us:
            return 0
        # The moment before each is that many steps from its end, unrounded.
        inside = (piece.end_us - 1 - self._step_us - moment) // self._grid_step + 1
        return max(0, min(most, inside))

    def _count_days(self, after_us: int, until_us: int) -> int:
        first = self.after(after_us)
        if first is None or first > until_us:
            return 0
        if self._step_us % DAY_US:
            return 1 + super().count(first, until_us)
        days = self._step_us // DAY_US
        steps = (self._date(until_us) - self._date(first)).days // days
        last = self._date(first) + timedelta(days=steps * days)
        return steps + (self._midnight(last) <= until_us)

    def _recent_days(self, after_us: int, until_us: int, limit: int) -> list[int]:
        if self._step_us % DAY_US:
            return super().recent(after_us, until_us, limit)
        count, first = self._count_days(after_us, until_us), self.after(after_us)
        if first is None or not count:
            return []
        step, begin = timedelta(microseconds=self._step_us), self._date(first)
        wanted = range(max(1, count - limit), count)
        later = [self._midnight(begin + number * step) for number in wanted]
        return later if count > limit else [first, *later]

    def _date(self, moment_us: int) -> date:
        return to_datetime(moment_us).astimezone(self._zone.tz).date()

    def _midnight(self, day: date) -> int:
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001
        return self._zone.moment_of(midnight, -LAST_US)

    def _midnight_after(self, moment_us: int) -> int:
        wall = to_datetime(moment_us).astimezone(self._zone.tz).replace(tzinfo=None)
        day = (wall + timedelta(microseconds=self._step_us)).date()
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001
        return self._zone.moment_of(midnight, moment_us)
