"""What a leader does now and then for entries that the schedule does not have, a bit at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from celery_safe_leader._dispatch.memory.memory import Memory
from celery_safe_leader._dispatch.ports import Schedule
from celery_safe_leader._ledger.ledger import PIECE, Ledger
from celery_safe_leader._schedules.moments import SECOND_US, now_us

__all__ = ["Upkeep"]

_FIRST_AFTER = 0.5
"""Seconds after the beginning of a tenure: what is due then comes first."""
_EVERY = 3600.0
"""Seconds; while the schedule has all entries of the ledger, there is nothing to be done."""
_AGAIN = 60.0
"""Seconds after a turn that failed."""
_PAUSE = 0.02
"""Seconds between two requests."""
_FORGET = 25
"""Entries of one request, which keeps it below 0.3 ms."""
_MANY = 1_000
"""So many more entries without a schedule, and the next turn is now."""


class Upkeep:
    """Catches up with copied entries, and forgets those that no leader has known for long.

    For one tenure and one thread.
    """

    def __init__(self, ledger: Ledger, schedule: Schedule, memory: Memory, now: float) -> None:
        """Begin a tenure. ``now``: seconds of a clock that nobody sets."""
        self._ledger = ledger
        self._schedule = schedule
        self._memory = memory
        self._next_at = now + _FIRST_AFTER
        self._turn: Iterator[None] | None = None
        self._is_first = True
        self._departures = 0  # of entries, at the end of the last turn
        self._left = 0  # entries without a schedule after it

    def step(self, now: float) -> float:
        """Do what is due, one request or two; return the seconds until the next step.

        Raises what the ledger's methods do; then this turn is over.
        """
        if self._turn is None:
            if not self._is_due(now):
                return max(0.0, self._next_at - now)
            self._turn = self._take_turn()
        turn, self._turn = self._turn, None
        self._next_at = now + _AGAIN
        for _ in turn:
            self._turn = turn
            return _PAUSE
        self._next_at = now + _EVERY
        self._is_first, self._left = False, self._memory.foreign_count
        self._departures = self._memory.departures
        return _EVERY

    def _is_due(self, now: float) -> bool:
        memory = self._memory
        if now < self._next_at:
            return memory.departures >= self._departures + _MANY
        if self._is_first or memory.foreign_count or self._left or memory.has_more:
            return True
        self._next_at = now + _EVERY
        return False

    def _take_turn(self) -> Iterator[None]:
        memory, entries = self._memory, self._schedule.entries
        for names in _pieces(list(memory.lagging), PIECE):
            memory.catch_up(names)
            yield
        # Where names come and go the ledger has many times as many as this memory: they are looked
        # at piece by piece, and none is kept for longer than its piece.
        cursor, is_over = 0, False
        while not is_over:
            cursor, marked = self._ledger.unknown(cursor)
            is_over = cursor == 0
            yield
            for names in _pieces([name for name in marked if name in entries], _FORGET):
                memory.forget((), [name for name in names if name in entries])
                yield
        yield from self._forget(memory.foreign)
        if memory.has_more:
            yield from self._forget_more()

    def _forget_more(self) -> Iterator[None]:
        """Do the same for those that only the ledger has."""
        memory, entries = self._memory, self._schedule.entries
        cursor, is_over = 0, False
        memory.has_more = False  # what is dropped from it meanwhile may be behind the cursor
        try:
            while not is_over:
                piece = self._ledger.copy_next(cursor)
                cursor, is_over = piece.cursor, piece.cursor == 0
                kept = memory.foreign
                names = [name for name in piece.runs if name not in entries and name not in kept]
                memory.has_more |= bool(names)
                yield
                yield from self._forget(names)
        except BaseException:
            memory.has_more = True
            raise

    def _forget(self, names: Iterable[str]) -> Iterator[None]:
        """Mark those that are not marked, and forget those whose grace period is over."""
        memory, entries = self._memory, self._schedule.entries
        grace_us = memory.grace * SECOND_US
        for piece in _pieces(names, PIECE):
            since, now = self._ledger.unknown_since(piece), now_us()
            yield
            due = [name for name in piece if not 0 <= now - since.get(name, 0) < grace_us]
            for few in _pieces(due, _FORGET):
                memory.forget([name for name in few if name not in entries], ())
                yield


def _pieces(names: Iterable[str], size: int) -> Iterator[list[str]]:
    left = iter(names)
    while piece := list(islice(left, size)):
        yield piece
