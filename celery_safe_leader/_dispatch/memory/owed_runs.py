"""Lets no run be lost between two leaders whose schedules differ though nobody changed them.

``crontab(minute=randint(0, 59))`` is another schedule in each process. The ledger's record says
when the entry ran, but what was due since then only the old schedule knows. So a leader notes the
next moment of each entry in Redis, a bit at a time while nothing is due, and its successor looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.ports import Schedule
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.notes.next_moments import NextMoment
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import now_us
from celery_safe_leader.errors import StoreError, StoreRefusedError

__all__ = ["NextMoments"]

_FIRST_AFTER = 1.0
_EVERY = 60.0
_PAUSE = 0.05
_AFTER_ERROR = 30.0
"""All in seconds."""
_PIECE = 100
"""Entries looked at in one step, and written in one request: half a millisecond at most."""
_SHOWN = 10


class NextMoments:
    """The next moments of a schedule's entries. For one thread."""

    def __init__(self, ledger: Ledger, schedule: Schedule) -> None:
        self._ledger = ledger
        self._schedule = schedule
        self._noted: dict[str, tuple[LastRun, NextMoment]] = {}
        self._turn: Iterator[None] | None = None
        self._next_at = 0.0
        self._is_refused = False

    def begin(self, now: float) -> None:
        """Begin a tenure. ``now``: seconds of a clock that nobody sets."""
        self._turn, self._next_at = None, now + _FIRST_AFTER

    def forget(self) -> None:
        """Note all anew: Redis has lost its data."""
        self._noted.clear()

    def step(self, now: float) -> float:
        """Look at some entries and note what differs; return the seconds until the next step."""
        if self._is_refused:
            return _EVERY
        if now < self._next_at:
            return self._next_at - now
        turn = self._turn or self._take_turn()
        self._turn, self._next_at = None, now + _EVERY
        try:
            for _ in turn:
                self._turn, self._next_at = turn, now + _PAUSE
                break
        except StoreError as exc:
            self._refused(exc)
            self._next_at = now + _AFTER_ERROR
        return self._next_at - now

    def _take_turn(self) -> Iterator[None]:
        entries = self._schedule.entries
        left = iter(list(entries))
        while piece := list(islice(left, _PIECE)):
            found = {}
            for name in piece:
                noted = self._differing(entries.get(name))
                if noted is not None:
                    found[name] = noted
            self._ledger.note_next({name: moment for name, (_, moment) in found.items()})
            self._noted.update(found)
            if found:
                yield
        gone = [name for name in self._noted if name not in entries]
        for start in range(0, len(gone), _PIECE):
            names = gone[start : start + _PIECE]
            self._ledger.drop_next(names)
            for name in names:
                self._noted.pop(name, None)
            yield

    def _differing(self, entry: Entry | None) -> tuple[LastRun, NextMoment] | None:
        """Return what has to be noted of an entry; ``None`` if it would be found from the note."""
        if entry is None or entry.last_run is None or not entry.follows_schedule:
            return None
        last_run = entry.last_run
        last, noted = self._noted.get(entry.name, (None, None))
        if last is last_run:
            return None
        following = entry.next_by_rule()
        if following is None:
            return None
        if noted is not None and noted.after(last_run) == following:
            self._noted[entry.name] = (last_run, noted)
            return None
        return last_run, NextMoment(last_run.fingerprint, last_run.base, following)

    def look_after(self, names: Iterable[str]) -> None:
        """Let entries of a new leader run once that its predecessor's schedule owes a run.

        Args:
            names: Entries that were just read from the ledger.
        """
        entries = self._schedule.entries
        changed = []
        for name in names:
            entry = entries.get(name)
            if entry is not None and entry.last_run is not None and not entry.follows_schedule:
                changed.append(entry)
                self._noted.pop(name, None)
        if not changed:
            return
        owing = self._owing([entry for entry in changed if entry.claim is None])
        names = sorted(entry.name for entry in changed)
        logger.warning(
            "The schedules of %d entries are not those of the leader before: %s%s. If nobody "
            "changed them, each process computes its own, such as crontab(minute=randint(0, 59)): "
            "write a fixed value, or one that follows from the entry's name. The new ones count "
            "from now; %d runs that were due by the old ones are made up for",
            len(changed),
            ", ".join(f"{name[:80]!r}" for name in names[:_SHOWN]),
            "" if len(names) <= _SHOWN else f" and {len(names) - _SHOWN} more",
            owing,
        )

    def _owing(self, changed: list[Entry]) -> int:
        try:
            noted = self._ledger.read_next([entry.name for entry in changed])
        except StoreError as exc:
            self._refused(exc)
            return 0
        now, owing = now_us(), 0
        for entry in changed:
            last_run, moment = entry.last_run, noted.get(entry.name)
            due = moment.after(last_run) if moment is not None and last_run is not None else None
            if due is not None and due <= now <= due + entry.lateness_us:
                entry.owed_us = now
                owing += 1
        return owing

    def _refused(self, error: StoreError) -> None:
        if isinstance(error, StoreRefusedError) and not self._is_refused:
            self._is_refused = True
            logger.info(
                "When entries are due next is not noted for a leader with other schedules: %s",
                error,
            )
