"""Solar schedules: events of the sun, computed by ``ephem``, as whole seconds.

What ``ephem`` returns depends a little on the moment it is asked from. So a moment is rounded *up*
to the second, and from a whole second, which may be an event itself, the search begins 60 s later:
the same sunrise is never given twice.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery_safe_leader._schedules.moments import (
    DAY_US,
    LAST_US,
    MINUTE_US,
    SECOND_US,
    from_datetime,
    to_datetime,
)
from celery_safe_leader._schedules.rule import Rule, ScheduleError, digest

__all__ = ["SEARCH_DAYS", "Solar"]

SEARCH_DAYS = 400
"""How far ahead an event is looked for; inside the polar circles some pause for months."""

_STEP_OVER_US = MINUTE_US


class Solar(Rule):
    """The moments of one event of the sun at one place.

    Args:
        schedule: A ``celery.schedules.solar``.
    """

    __slots__ = ("_center", "_ephem", "_method", "_observer")

    def __init__(self, schedule: Any) -> None:
        place = (schedule.event, float(schedule.lat), float(schedule.lon))
        super().__init__(schedule, digest("solar", *place))
        self._ephem = schedule.ephem
        self._observer = schedule.cal.copy()
        # Celery 5.4 has dusk 18 degrees *above* the horizon. No event is above it.
        self._observer.horizon = -abs(float(self._observer.horizon))
        self._method: str = schedule.method
        self._center: bool = schedule.use_center

    def after(self, moment_us: int) -> int | None:
        """Return the next event, in whole seconds.

        An event less than 60 s after a ``moment_us`` of whole seconds is taken to be the same.
        """
        start_us = moment_us if moment_us % SECOND_US else moment_us + _STEP_OVER_US
        if start_us + SEARCH_DAYS * DAY_US > LAST_US:
            return None
        event_us = from_datetime(self._next_event(to_datetime(start_us)))
        moment = -(-event_us // SECOND_US) * SECOND_US
        if moment <= moment_us:
            raise ScheduleError(
                self.name,
                f"returned {to_datetime(moment)}, which is not later than the moment asked for",
            )
        return moment

    def recent(self, after_us: int, until_us: int, limit: int) -> list[int]:
        """Return the last events, found without those long before them."""
        window_us = (limit + 2) * DAY_US
        while True:
            start_us = max(after_us, until_us - window_us)
            found = self._between(start_us, until_us)
            if len(found) >= limit or start_us == after_us:
                return found[-limit:]
            window_us *= 4  # inside the polar circles

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many events there are; of more than 400 days an estimate, by the last ones."""
        span_us = SEARCH_DAYS * DAY_US
        if until_us - after_us <= span_us:
            return super().count(after_us, until_us)
        recent = super().count(until_us - span_us, until_us)
        return round(recent * (until_us - after_us) / span_us)

    def _next_event(self, start: datetime) -> datetime:
        # A copy for each search: an observer is changed by it, and threads may share the rule.
        observer = self._observer.copy()
        sun = self._ephem.Sun()
        options = {"use_center": True} if self._center else {}
        search, end = self._ephem.Date(start), self._ephem.Date(start) + SEARCH_DAYS
        while search < end:
            try:
                event = getattr(observer, self._method)(sun, start=search, **options)
            except self._ephem.CircumpolarError:
                search = observer.next_antitransit(sun, start=search) + self._ephem.minute
            else:
                found: datetime = event.datetime()
                return found
        raise ScheduleError(self.name, f"has no event within {SEARCH_DAYS} days of {start}")
