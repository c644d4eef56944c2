"""What a schedule that can only be asked said last: it is not asked again before it wants to be.

An answer "due" stands until its run is recorded, however often that is tried: the schedule may have
counted it already. So neither a pause of the ledger nor a broker that is away asks it anew.
"""

from __future__ import annotations

from datetime import datetime
from math import inf
from typing import NamedTuple

from celery_safe_leader._schedules.missed import DueRun, DueRuns
from celery_safe_leader._schedules.moments import steady_us
from celery_safe_leader._schedules.opaque import DueAnswer, OpaqueRule

__all__ = ["Asked"]


class _Noted(NamedTuple):
    answer: DueAnswer
    base_us: int
    """The last run that the schedule was asked about."""
    moment_us: int
    """When it was asked; the moment of the run, if it is due."""
    steady_us: int
    """The same, on a clock that is never set."""

    @property
    def run_us(self) -> int:
        """Moment of the run: strictly later than the last one also if the clock was set back."""
        return max(self.moment_us, self.base_us + 1)

    def shown(self, base_us: int) -> datetime | None:
        """Return the ``last_run_at`` of a run that the schedule was asked about, or said is due."""
        if base_us == self.base_us:
            return self.answer.shown
        return self.answer.stamp if base_us == self.run_us else None

    def left_us(self, now_us: int) -> int | None:
        """Return how long the schedule wants to be left alone; ``None`` for ever."""
        if self.answer.pause_us is None:
            return None
        # Of a clock that was set back and one that stood still in a suspend, the other one counts.
        elapsed_us = max(now_us - self.moment_us, steady_us() - self.steady_us)
        return max(0, self.answer.pause_us - elapsed_us)


class Asked:
    """The last answer of one schedule. For one thread at a time."""

    __slots__ = ("_dropped", "_noted")

    def __init__(self) -> None:
        self._noted: _Noted | None = None
        self._dropped: tuple[_Noted | None, int] = None, 0  # the latest, and how many by then

    def next_us(self, base_us: int, now_us: int) -> int | None:
        """Return when the entry has to be looked at; ``None`` for never.

        Args:
            base_us: What its next run is counted from.
            now_us: Now.
        """
        noted = self._noted
        if noted is None:
            return base_us
        if _stands(noted, base_us):
            return noted.moment_us
        left_us = noted.left_us(now_us)
        return None if left_us is None else now_us + left_us

    def due_runs(
        self, rule: OpaqueRule, base_us: int, now_us: int, lateness_us: float = inf
    ) -> DueRuns:
        """Return which run is due now; asks the schedule if it wants to be asked again.

        Its moment is the one at which the schedule said that it is due.

        Args:
            rule: The schedule.
            base_us: What its next run is counted from.
            now_us: Now.
            lateness_us: A moment that is longer ago is not published.

        Raises:
            ScheduleError: The schedule raised, or its answer is not Celery's.
        """
        noted = self._noted
        if noted is None or not self._holds(noted, base_us, now_us, lateness_us):
            asked = now_us, steady_us()
            shown = None if noted is None else noted.shown(base_us)
            noted = self._noted = _Noted(rule.ask(base_us, shown), base_us, *asked)
        left_us = noted.left_us(now_us)
        next_due = None if left_us is None else now_us + left_us
        if not _stands(noted, base_us):
            return DueRuns((), 0, 0, next_due, base_us)
        if _is_too_late(noted, now_us, lateness_us):
            return DueRuns((), 0, self._count_dropped(noted), next_due, base_us)
        run = DueRun(base_us + 1, noted.run_us)
        return DueRuns((run,), 0, self._dropped_since(base_us), next_due, base_us)

    def _count_dropped(self, noted: _Noted) -> int:
        """Count an answer whose run is too late, once; return how many since the same base."""
        if noted is not self._dropped[0]:
            self._dropped = noted, self._dropped_since(noted.base_us) + 1
        return self._dropped[1]

    def _dropped_since(self, base_us: int) -> int:
        latest, count = self._dropped
        return count if latest is not None and latest.base_us == base_us else 0

    @staticmethod
    def _holds(noted: _Noted, base_us: int, now_us: int, lateness_us: float) -> bool:
        owed = _stands(noted, base_us) and not _is_too_late(noted, now_us, lateness_us)
        return owed or noted.left_us(now_us) != 0


def _stands(noted: _Noted, base_us: int) -> bool:
    """Return whether the last answer says that the run after ``base_us`` is due."""
    return noted.answer.is_due and noted.base_us == base_us


def _is_too_late(noted: _Noted, now_us: int, lateness_us: float) -> bool:
    return now_us - noted.moment_us > lateness_us
