"""A standby's copy of the ledger, with which its election costs what fell due and not all entries.

Only a copy that is *ahead* of the ledger does harm: it lets an entry sleep. One that lags does not,
since the ledger compares before each write. No entry goes back or away without a new mark, and no
server shows older data without a new epoch. So a copy counts as long as both are as they were
before its first piece.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._dispatch.memory.memory import Memory
from celery_safe_leader._dispatch.ports import Schedule
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._dispatch.timetable import Timetable
from celery_safe_leader._ledger.ledger import PIECE, Ledger
from celery_safe_leader._ledger.results import Adoption, Condition, CopiedPiece, LedgerState
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import now_us

__all__ = ["StandbyCopy"]

_SPREAD = 60
"""Seconds over which all entries are copied, if there are many."""
_LOOK_EVERY = 60.0
_STEP_EVERY = 1.0
"""Seconds."""
_FEWEST_PIECES = 4
"""At a step. So 10,000 entries are copied in 17 s."""


class StandbyCopy:
    """Copies the ledger into the memory, and keeps it up to date, one step after the other.

    For one thread. The constructor does no IO.
    """

    def __init__(self, ledger: Ledger, schedule: Schedule, memory: Memory) -> None:
        self._ledger = ledger
        self._schedule = schedule
        self._memory = memory
        self._noted: LedgerState | None = None
        self._redis_us = 0  # at the latest answer
        self._failures = 0
        self._cursor = 0
        self._is_complete = False
        self._to_copy_again: list[str] = []
        self._timetable = Timetable()
        # Entries of which the copy says nothing that could be relied on at the election. Every
        # entry of the schedule that may ever be due is in here or on the timetable.
        self._unknown: set[str] = set()

    def step(self, still_stands_by: Gate) -> float:
        """Copy a little more, or see whether the copy still counts.

        Args:
            still_stands_by: Asked before each request: an election ends the step.

        Returns:
            Seconds until the next step.

        Raises:
            StoreUnavailableError: No answer. The copy is as it was.
            StoreRefusedError: Redis answered with an error. So it is.
        """
        if not self._is_complete:
            return self._copy(still_stands_by)
        self._follow_schedule()
        if not self._to_copy_again:
            self._to_copy_again = self._timetable.pop_all(now_us())
            self._unknown.update(self._to_copy_again)
        return self._copy_again(still_stands_by)

    def why_useless(self, adoption: Adoption, redis_us: int) -> str:
        """Return why the whole ledger has to be read at an election, as a clause; or empty.

        Args:
            adoption: Of this beat.
            redis_us: Redis's clock after it, in microseconds since 1970.
        """
        noted, found = self._noted, adoption.state
        if noted is None:
            return "there is no copy"
        if not self._is_complete:
            return "the copy was not complete"
        if adoption.condition is not Condition.WHOLE:
            return str(adoption.condition.value)
        if found.epoch != noted.epoch:
            return "Redis was restarted or failed over after it was copied"
        if found.mark != noted.mark:
            return "entries were set back or removed after it was copied, or an older release led"
        if found.entries != noted.entries:
            return "it has other entries than when it was copied"
        if redis_us < self._redis_us:
            return "Redis's clock was set back after it was copied"
        return ""

    def to_read(self, until_us: int) -> set[str]:
        """Return the entries of the schedule that have to be read at the election.

        They are those that fell due since they were copied or will by ``until_us``, and those of
        which the copy does not say when they are due by this beat's schedule. It may be called
        again, if they could not be read.
        """
        self._follow_schedule()
        self._unknown.update(self._timetable.pop_all(until_us))
        return set(self._unknown)

    def hand_over(self) -> Timetable:
        """Return the timetable, without the entries that had to be read, and drop the copy."""
        timetable = self._timetable if self._is_complete else Timetable()
        self.drop()
        return timetable

    def drop(self) -> None:
        """Begin anew with the next step. What is in the memory does not count any more."""
        self._noted, self._is_complete, self._redis_us = None, False, 0
        self._to_copy_again = []
        self._timetable = Timetable()
        self._unknown = set()

    def _copy(self, still_stands_by: Gate) -> float:
        for _ in range(self._pieces(self._noted.entries if self._noted else 0)):
            if not still_stands_by():
                break
            piece = self._ledger.copy_next(self._cursor if self._noted else 0)
            if self._noted is None and piece.state.can_be_copied:
                self._begin(piece.state)
            if not self._take(piece):
                return self._pause()
            self._cursor = piece.cursor
            if piece.cursor == 0:
                self._is_complete = True
                logger.info(
                    "Copied the ledger of %s: %d entries. If this standby is elected, it reads "
                    "only what fell due since",
                    self._ledger.key,
                    piece.state.entries,
                )
                self._memory.check_key()
                return _LOOK_EVERY
        return _STEP_EVERY

    def _copy_again(self, still_stands_by: Gate) -> float:
        """Read again what fell due since it was copied; in any case see if the copy counts."""
        names = self._to_copy_again
        for _ in range(self._pieces(len(names))):
            if not still_stands_by():
                break
            asked, names = names[:PIECE], names[PIECE:]
            piece = self._ledger.copy_entries(asked)
            if not self._take(piece, asked):
                return self._pause()
            self._to_copy_again = names
            if not names:
                return _LOOK_EVERY
        return _STEP_EVERY

    @staticmethod
    def _pieces(entries: int) -> int:
        return max(_FEWEST_PIECES, -(-entries // (PIECE * _SPREAD)))

    def _begin(self, state: LedgerState) -> None:
        self._schedule.changes()
        self._memory.clear()
        self._noted = state
        self._timetable = Timetable()
        self._unknown = set(self._schedule.entries)

    def _take(self, piece: CopiedPiece, asked: Collection[str] = ()) -> bool:
        """Take a piece into the copy. Return false if it is of another ledger, and drop the copy.

        The count is compared with the one before the first piece: what was enrolled since may be
        missing. What went would have changed the mark.
        """
        if piece.state != self._noted or piece.now < self._redis_us:
            self.drop()
            return False
        self._failures = 0
        self._redis_us = piece.now
        self._follow_schedule()
        for name in asked:
            if name not in piece.runs:
                self._memory.note(name, None)
        for name, run in piece.runs.items():
            self._memory.note(name, run)
            self._place(name)
        self._memory.note_unreadable(piece.unreadable)
        return True

    def _pause(self) -> float:
        self._failures += 1
        return backoff(self._failures, first=_STEP_EVERY, longest=_LOOK_EVERY)

    def _follow_schedule(self) -> None:
        """Let entries that changed stand where they stood, by their present schedule."""
        for name, before in self._schedule.changes().items():
            self._memory.replace(name, before)
            self._timetable.remove(name)
            self._unknown.discard(name)
            if name in self._schedule.entries:
                self._memory.welcome(name)
                self._place(name)

    def _place(self, name: str) -> None:
        """Put an entry on the timetable, or among those that are read at the election."""
        entry = self._schedule.entries.get(name)
        if entry is None:
            return
        self._timetable.remove(name)
        self._unknown.add(name)
        run = entry.last_run
        if run is None or run.moment > self._redis_us:
            return
        if entry.rule.exact and entry.follows_schedule:
            # An error of a schedule is told when this beat leads.
            with contextlib.suppress(Exception):
                self._timetable.put(entry, entry.next_us())
                self._unknown.discard(name)
