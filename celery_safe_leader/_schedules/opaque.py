"""Schedules of an unknown class: asked, never predicted.

Such a schedule answers only whether it is due *now*, by its own clock, and its estimate of the next
time differs with each question. So its runs have no moment that two processes would agree on, and
the run's id is made of what they do agree on: the last committed moment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from math import inf, isinf, isnan
from typing import Any, ClassVar, NamedTuple

from celery_safe_leader._schedules.frames import shown as show
from celery_safe_leader._schedules.moments import LAST_US, SECOND_US, to_datetime
from celery_safe_leader._schedules.rule import Rule, ScheduleError, digest
from celery_safe_leader._schedules.safe_text import is_containable, safe_repr

__all__ = ["DEFAULT_MAX_INTERVAL", "SHORTEST_PAUSE_US", "DueAnswer", "OpaqueRule"]

SHORTEST_PAUSE_US = 10_000
"""Least time between two questions, 10 ms: a schedule that is always due makes no hot loop."""

DEFAULT_MAX_INTERVAL = 300.0
"""Seconds after which Celery's beat asks a schedule again that does not say when to."""

_LONGEST = LAST_US / SECOND_US
"""Seconds; what is longer is as long."""

_ADDRESS = re.compile(r"0x[0-9A-Fa-f]+")


class DueAnswer(NamedTuple):
    """What an unknown schedule says about now."""

    is_due: bool
    pause_us: int | None
    """Until it wants to be asked again; ``None`` for never."""
    shown: datetime | None = None
    """The ``last_run_at`` that it was shown."""
    stamp: datetime | None = None
    """What its own clock said as it said that it is due: its ``last_run_at`` from then on."""


class OpaqueRule(Rule):
    """A schedule that can only be asked, by its ``is_due``.

    Args:
        schedule: Any object with Celery's ``is_due(last_run_at) -> (bool, seconds)``.
        tz: ``last_run_at`` is given in this time zone, as Celery's beat does.
        max_interval: Seconds after which it is asked again if it says only that it is not due.
        now: Its clock, if it has one of its own: ``last_run_at`` is given as that one shows it.
    """

    __slots__ = ("_max_interval", "_now", "_tz")

    exact: ClassVar[bool] = False

    def __init__(
        self,
        schedule: Any,
        tz: tzinfo,
        max_interval: float = DEFAULT_MAX_INTERVAL,
        *,
        now: Callable[[], Any] | None = None,
    ) -> None:
        kind = type(schedule)
        # The address in a default repr differs from process to process.
        defining = _ADDRESS.sub("", safe_repr(schedule))
        super().__init__(
            schedule, digest("unknown", f"{kind.__module__}.{kind.__qualname__}", defining)
        )
        self._tz = tz
        self._max_interval = max_interval
        self._now = now

    def after(self, moment_us: int) -> int | None:
        """Raise: when it is due next is not a function of a moment.

        Raises:
            ScheduleError: Always.
        """
        raise ScheduleError(self.name, "is of an unknown class: only ask() can tell when it is due")

    def ask(self, last_us: int, shown: datetime | None = None) -> DueAnswer:
        """Return whether the schedule says that it is due now.

        Args:
            last_us: Moment of the last run.
            shown: What its clock showed then, if that is known.

        Raises:
            ScheduleError: It raised (the error is the cause), or its answer is not Celery's.
        """
        try:
            shown = shown or self._shown(last_us)
            is_due, seconds = self._schedule.is_due(shown)
            due = bool(is_due)
            pause = self._unsaid(due) if seconds is None else _number(seconds)
            stamp = self._now() if due and self._now is not None else None
        except BaseException as exc:
            if not is_containable(exc):
                raise
            raise ScheduleError(self.name, f"failed in is_due: {safe_repr(exc)}") from exc
        if isnan(pause):
            raise ScheduleError(self.name, "wants to be asked again in nan s")
        if isinf(pause) and pause > 0:
            return DueAnswer(due, None, shown, stamp)
        pause_us = int(max(0.0, min(pause, _LONGEST)) * SECOND_US)
        return DueAnswer(due, max(SHORTEST_PAUSE_US, pause_us), shown, stamp)

    def _shown(self, last_us: int) -> datetime:
        if self._now is None:
            return to_datetime(last_us).astimezone(self._tz)
        return show(last_us, self._now(), self._tz)

    def is_same_as(self, other: Rule) -> bool:
        """Return whether both are one schedule, so that what one has said holds for the other."""
        if self.fingerprint != other.fingerprint:
            return False
        try:
            return bool(self._schedule is other._schedule or self._schedule == other._schedule)
        except BaseException as exc:
            if not is_containable(exc):
                raise
            return False

    def _unsaid(self, is_due: bool) -> float:
        """Return the pause of a schedule that names none, as stock beat has it."""
        return 0.0 if is_due else self._max_interval


def _number(seconds: Any) -> float:
    try:
        return float(seconds)
    except OverflowError:  # an integer beyond all clocks
        return inf
