"""Interval schedules: a grid of equal steps, and Celery's ``relative=True``, rounded to the clock.

The grid has no origin of its own. It is that of the last committed moment, and since every run is
committed under a moment of the grid, whenever it really happened, the grid never drifts.
"""

from __future__ import annotations

from datetime import datetime, timedelta
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
        detail = f"has the interval {run_every!r}; it must be a number of seconds"
        # The schedule's own repr fails without a timedelta.
        raise ScheduleError(type(schedule).__name__, detail)
    step_us = from_timedelta(run_every)
    if step_us < SHORTEST_US:
        seconds = run_every.total_seconds()
        detail = f"has an interval of {seconds} s; it must be at least 0.001 s"
        raise ScheduleError(repr(schedule), detail)
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
        """Return the last due moments; from the first on they are equal steps, except for days."""
        if self._unit_us >= _HOUR_US:
            return super().recent(after_us, until_us, limit)
        first, steps = self._grid(after_us, until_us)
        low = max(0, steps - limit)
        return [first + k * self._grid_step for k in range(low, steps)]

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many due moments there are; by a division where they are equal steps."""
        if self._unit_us >= _HOUR_US:
            return super().count(after_us, until_us)
        return self._grid(after_us, until_us)[1]

    @property
    def _grid_step(self) -> int:
        return self._step_us - self._step_us % self._unit_us

    def _grid(self, after_us: int, until_us: int) -> tuple[int, int]:
        first = self.after(after_us)
        if first is None or first > until_us:
            return 0, 0
        return first, (min(until_us, LAST_US) - first) // self._grid_step + 1

    def _midnight_after(self, moment_us: int) -> int:
        wall = to_datetime(moment_us).astimezone(self._zone.tz).replace(tzinfo=None)
        day = (wall + timedelta(microseconds=self._step_us)).date()
        midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001
        return self._zone.moment_of(midnight, moment_us)
