"""Schedules of an unknown class: asked, never predicted.

Such a schedule answers only whether it is due *now*, by its own clock, and its estimate of the next
time differs with each question. So its runs have no moment that two processes would agree on, and
the run's id is made of what they do agree on: the last committed moment.
"""

from __future__ import annotations

import re
from datetime import tzinfo
from math import isfinite
from typing import Any, ClassVar, NamedTuple

from celery_safe_leader._schedules.moments import SECOND_US, to_datetime
from celery_safe_leader._schedules.rule import Rule, ScheduleError, digest

__all__ = ["SHORTEST_PAUSE_US", "DueAnswer", "OpaqueRule"]

SHORTEST_PAUSE_US = 10_000
"""Least time between two questions, 10 ms: a schedule that is always due makes no hot loop."""

_ADDRESS = re.compile(r"0x[0-9A-Fa-f]+")


class DueAnswer(NamedTuple):
    """What an unknown schedule says about now."""

    is_due: bool
    pause_us: int | None
    """Until it wants to be asked again; ``None`` for never."""


class OpaqueRule(Rule):
    """A schedule that can only be asked, by its ``is_due``.

    Args:
        schedule: Any object with Celery's ``is_due(last_run_at) -> (bool, seconds)``.
        tz: ``last_run_at`` is given in this time zone, as Celery's beat does.
    """

    __slots__ = ("_tz",)

    exact: ClassVar[bool] = False

    def __init__(self, schedule: Any, tz: tzinfo) -> None:
        kind = type(schedule)
        # The address in a default repr differs from process to process.
        defining = _ADDRESS.sub("", repr(schedule))
        super().__init__(
            schedule, digest("unknown", f"{kind.__module__}.{kind.__qualname__}", defining)
        )
        self._tz = tz

    def after(self, moment_us: int) -> int | None:
        """Raise: when it is due next is not a function of a moment.

        Raises:
            ScheduleError: Always.
        """
        raise ScheduleError(self.name, "is of an unknown class: only ask() can tell when it is due")

    def ask(self, last_us: int) -> DueAnswer:
        """Return whether the schedule says that it is due now.

        Args:
            last_us: Moment of the last run.

        Raises:
            ScheduleError: It raised (the error is the cause), or its answer is not Celery's.
        """
        last_run_at = to_datetime(last_us).astimezone(self._tz)
        try:
            is_due, seconds = self._schedule.is_due(last_run_at)
            pause = None if seconds is None else float(seconds)
        except Exception as exc:
            raise ScheduleError(self.name, f"failed in is_due: {exc!r}") from exc
        if pause is None:
            return DueAnswer(bool(is_due), None)
        if not isfinite(pause):
            raise ScheduleError(self.name, f"wants to be asked again in {pause} s")
        return DueAnswer(bool(is_due), max(SHORTEST_PAUSE_US, int(pause * SECOND_US)))
