"""When the entries have to be looked at: a little before they are due, where that can be known."""

from __future__ import annotations

import heapq
from itertools import chain

from celery_safe_leader._dispatch.agenda import Agenda
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import MINUTE_US, SECOND_US, now_us
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader._schedules.safe_text import is_containable, safe_repr, safe_str

__all__ = ["EARLIEST", "Timetable"]

EARLIEST = 0.3
"""Seconds before its due moment from which on a message is built: a burst of a thousand takes less.
An entry that changes in between has its message built anew."""

_EARLIEST_US = round(EARLIEST * SECOND_US)
_BEGIN_US = _EARLIEST_US - 50_000
"""Building begins this long before the moment, and then includes everything up to the earliest: so
what is spread over time is built together, in twenty goes a second and not one for each run."""

_RETRY_SCHEDULE = MINUTE_US
"""Microseconds after which a schedule that raised is asked again."""


class Timetable:
    """Entries in the order of their moments. For one thread."""

    def __init__(self) -> None:
        self._known = Agenda()
        # A schedule of an unknown class says only whether it is due now: it is asked on time.
        self._asked = Agenda()
        # What was taken out because it is due, until it gets its next moment.
        self._taken: dict[str, int] = {}

    def schedule(self, entry: Entry) -> None:
        """Put an entry at its next moment; if its schedule fails, at its next attempt."""
        try:
            self.put(entry, entry.next_us())
        except BaseException as exc:
            if not is_containable(exc):
                raise
            self.failed(entry, exc)

    def put(self, entry: Entry, moment_us: int | None) -> None:
        """Put an entry at its next moment; ``None``: remove it."""
        self._taken.pop(entry.name, None)
        self.put_off(entry, moment_us)

    def put_off(self, entry: Entry, moment_us: int | None) -> None:
        """Put an entry at a moment, at which it is looked at again for the run that was due."""
        agenda = self._known if entry.rule.exact else self._asked
        agenda.put(entry.name, moment_us)

    def failed(self, entry: Entry, error: BaseException) -> None:
        """Log that the schedule of an entry failed, and put the entry at its next attempt."""
        logger.error(
            "The schedule of entry %r fails: %s. The entry does not run; its schedule is asked "
            "again in 60 s",
            entry.name,
            safe_str(error) if isinstance(error, ScheduleError) else safe_repr(error),
        )
        self.put_off(entry, now_us() + _RETRY_SCHEDULE)

    def remove(self, name: str) -> None:
        """Remove an entry, if it is there."""
        self._taken.pop(name, None)
        self._known.remove(name)
        self._asked.remove(name)

    def pop_due(self, now: int, most: int) -> list[tuple[int, str]]:
        """Remove and return up to ``most`` entries that are due, or soon will be.

        Returns:
            For each its moment, or now if that is later, and its name.
        """
        # When a schedule is first asked says nothing of when its run was due.
        due = [(now, name) for _, name in self._asked.pop_due(now, most)]
        if self._has_by(now + _BEGIN_US):
            due += self._known.pop_due(now + _EARLIEST_US, most - len(due))
        for moment, name in due:
            self._taken.setdefault(name, moment)
        return [(max(now, moment), name) for moment, name in due]

    def pop_all(self, until_us: int) -> list[str]:
        """Remove and return all entries whose moment is known and has come by ``until_us``."""
        return [name for _, name in self._known.pop_due(until_us, len(self._known))]

    def first(self, most: int) -> list[tuple[int, str]]:
        """Return up to ``most`` moments that are known, and whose they are. From any thread.

        What was taken out counts until it gets its next moment: its run is being built, or waits.
        """
        taken = self._taken.copy()  # in one go: another thread changes it
        known = (place for place in self._known.first(most) if place[1] not in taken)
        return heapq.nsmallest(most, chain(((at, name) for name, at in taken.items()), known))

    def oldest_us(self) -> int | None:
        """Return the earliest moment whose run has not been done. From any thread.

        Where a schedule can only be asked, that is when it was asked first.
        """
        moments = list(self._taken.values())
        moments += [moment for moment, _ in self._known.first(1)]
        return min(moments, default=None)

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
