"""When the entries have to be looked at: a little before they are due, where that can be known."""

from __future__ import annotations

from celery_safe_leader._dispatch.agenda import Agenda
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import MINUTE_US, SECOND_US, now_us
from celery_safe_leader._schedules.rule import ScheduleError

__all__ = ["EARLIEST", "Timetable"]

EARLIEST = 0.3
"""Seconds before its due moment at which a run is claimed, at most. A burst of a thousand runs is
claimed and built in less. What is claimed has to be settled if the leader dies, so no more."""

_EARLIEST_US = round(EARLIEST * SECOND_US)
_BEGIN_US = _EARLIEST_US - 50_000
"""Claiming begins this long before the moment, and then includes everything up to the earliest: so
what is spread over time is claimed together, in twenty writes a second and not one for each run."""

_RETRY_SCHEDULE = MINUTE_US
"""Microseconds after which a schedule that raised is asked again."""


class Timetable:
    """Entries in the order of their moments. For one thread."""

    def __init__(self) -> None:
        self._known = Agenda()
        # A schedule of an unknown class says only whether it is due now: it is asked on time.
        self._asked = Agenda()

    def schedule(self, entry: Entry) -> None:
        """Put an entry at its next moment; if its schedule fails, at its next attempt."""
        try:
            self.put(entry, entry.next_us())
        except Exception as exc:
            self.failed(entry, exc)

    def put(self, entry: Entry, moment_us: int | None) -> None:
        """Put an entry at a moment; ``None``: remove it."""
        agenda = self._known if entry.rule.exact else self._asked
        agenda.put(entry.name, moment_us)

    def failed(self, entry: Entry, error: Exception) -> None:
        """Log that the schedule of an entry failed, and put the entry at its next attempt."""
        logger.error(
            "The schedule of entry %r fails: %s. The entry does not run; its schedule is asked "
            "again in 60 s",
            entry.name,
            error if isinstance(error, ScheduleError) else repr(error),
        )
        self.put(entry, now_us() + _RETRY_SCHEDULE)

    def remove(self, name: str) -> None:
        """Remove an entry, if it is there."""
        self._known.remove(name)
        self._asked.remove(name)

    def pop_due(self, now: int, most: int) -> list[tuple[int, str]]:
        """Remove and return up to ``most`` entries that are due, or soon will be.

        Returns:
            For each its moment, or now if that is later, and its name.
        """
        due = self._asked.pop_due(now, most)
        if self._has_by(now + _BEGIN_US):
            due += self._known.pop_due(now + _EARLIEST_US, most - len(due))
        return [(max(now, moment), name) for moment, name in due]

    def has_before(self, moment_us: int) -> bool:
        """Return whether an entry is due before a moment that is near, or at it."""
        first = self._asked.next_us()
        return self._has_by(moment_us) or (first is not None and first <= min(now_us(), moment_us))

    def next_us(self) -> int | None:
        """Return when ``pop_due`` will return something; ``None`` for never."""
        asked, known = self._asked.next_us(), self._known.next_us()
        times = [] if asked is None else [asked]
        if known is not None:
            times.append(known - _BEGIN_US)
        return min(times, default=None)

    def _has_by(self, moment_us: int) -> bool:
        first = self._known.next_us()
        return first is not None and first <= moment_us
