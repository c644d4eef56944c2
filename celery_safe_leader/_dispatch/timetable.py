"""When the entries have to be looked at: a little before they are due, where that can be known."""

from __future__ import annotations

import logging

from celery_safe_leader._dispatch.agenda import Agenda
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._schedules.moments import now_us
from celery_safe_leader._schedules.rule import ScheduleError

__all__ = ["EARLIEST", "Timetable"]

logger = logging.getLogger("celery_safe_leader.beat")

EARLIEST = 0.3
"""Seconds before its due moment at which a run is claimed, at most. A burst of a thousand runs is
claimed and built in less. What is claimed has to be settled if the leader dies, so no more."""

_EARLIEST_US = round(EARLIEST * 1_000_000)
_BEGIN_US = _EARLIEST_US - 50_000
"""Claiming begins this long before, and then takes all up to the earliest: so what is spread
over time is claimed together, in twenty writes a second and not one for each run."""

_RETRY_SCHEDULE = 60_000_000
"""Microseconds after which a schedule that raised is asked again."""


class Timetable:
    """Entries in the order of their moments. For one thread."""

    def __init__(self) -> None:
        """Begin empty."""
        self._known = Agenda()
        # A schedule of an unknown class says only whether it is due now: it is asked on time.
        self._asked = Agenda()

    def schedule(self, item: Entry) -> None:
        """Put an entry at its next moment; if its schedule fails, at another try."""
        try:
            self.put(item, item.next_us())
        except Exception as exc:
            self.failed(item, exc)

    def put(self, item: Entry, moment_us: int | None) -> None:
        """Put an entry at a moment; ``None``: nowhere."""
        agenda = self._known if item.rule.exact else self._asked
        agenda.put(item.name, moment_us)

    def failed(self, item: Entry, error: Exception) -> None:
        """Name an entry whose schedule failed, and put it at another try."""
        logger.error(
            "The schedule of entry %r fails: %s. The entry does not run; it is asked again in 60 s",
            item.name,
            error if isinstance(error, ScheduleError) else repr(error),
        )
        self.put(item, now_us() + _RETRY_SCHEDULE)

    def remove(self, name: str) -> None:
        """Forget an entry."""
        self._known.remove(name)
        self._asked.remove(name)

    def take(self, now: int, most: int) -> list[tuple[int, str]]:
        """Remove and return up to ``most`` entries that are due, or soon.

        Returns:
            For each its moment, or now if that is later, and its name.
        """
        taken = self._asked.take(now, most)
        if self._has_by(now + _BEGIN_US):
            taken += self._known.take(now + _EARLIEST_US, most - len(taken))
        return [(max(now, moment), name) for moment, name in taken]

    def has_before(self, moment_us: int) -> bool:
        """Tell whether an entry is due before a moment that is near, or at it."""
        first = self._asked.next_us()
        return self._has_by(moment_us) or (first is not None and first <= min(now_us(), moment_us))

    def next_us(self) -> int | None:
        """Return when ``take`` gives something; ``None`` for never."""
        asked, known = self._asked.next_us(), self._known.next_us()
        times = [] if asked is None else [asked]
        if known is not None:
            times.append(known - _BEGIN_US)
        return min(times, default=None)

    def _has_by(self, moment_us: int) -> bool:
        first = self._known.next_us()
        return first is not None and first <= moment_us
