"""What a schedule is to the scheduler: a rule that names the moments at which it is due.

A moment is an integer: microseconds since 1970 in UTC. A rule is a function of moments alone; it
reads no clock and keeps no state, so that every candidate, in every process and after every
restart, derives the same moments from the same ledger. Nothing of the ledger belongs in here.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, ClassVar

from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["Rule", "ScheduleError", "digest"]


class ScheduleError(SafeLeaderError):
    """A schedule cannot be followed. It concerns its own entry, never the others.

    Args:
        schedule: ``repr`` of the schedule.
        detail: What it did, or what is wrong with it.
    """

    def __init__(self, schedule: str, detail: str) -> None:
        super().__init__(schedule, detail)
        self.schedule = schedule
        self.detail = detail

    def __str__(self) -> str:
        return f"schedule {self.schedule} {self.detail}"


class Rule(ABC):
    """The due moments of one schedule.

    Thread-safe: a rule does not change. What ``latest``, ``recent`` and ``count`` answer is what
    repeated calls of ``after``, begun at ``after_us``, would give.
    """

    __slots__ = ("_schedule", "fingerprint")

    exact: ClassVar[bool] = True
    """Whether the moments follow from the schedule alone. False for unknown classes."""

    def __init__(self, schedule: Any, fingerprint: str) -> None:
        self._schedule = schedule
        self.fingerprint = fingerprint
        """Digest of what defines the schedule; the same in every process and release."""

    @property
    def name(self) -> str:
        """The schedule as it is named in errors."""
        # Not kept: with ten thousand entries it would double the time that building them takes.
        return safe_repr(self._schedule)

    @abstractmethod
    def after(self, moment_us: int) -> int | None:
        """Return the first due moment later than ``moment_us``.

        Returns:
            Microseconds since 1970 in UTC; ``None`` if it is never due again.

        Raises:
            ScheduleError: The schedule has no such moment although it should.
        """

    def latest(self, after_us: int, until_us: int) -> int | None:
        """Return the last due moment that is later than ``after_us`` and not after ``until_us``."""
        recent = self.recent(after_us, until_us, 1)
        return recent[-1] if recent else None

    def recent(self, after_us: int, until_us: int, limit: int) -> list[int]:
        """Return the last ``limit`` due moments in ``(after_us, until_us]``, the oldest first."""
        return list(deque(self._between(after_us, until_us), maxlen=limit))

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many due moments are in ``(after_us, until_us]``."""
        return len(self._between(after_us, until_us))

    def _between(self, after_us: int, until_us: int) -> list[int]:
        # Only for rules with few moments: those of the sun, and calendar days.
        moments = []
        moment = self.after(after_us)
        while moment is not None and moment <= until_us:
            moments.append(moment)
            moment = self.after(moment)
        return moments


@lru_cache(maxsize=1024)
def digest(*fields: Hashable) -> str:
    """Return 16 hexadecimal digits for the defining fields of a schedule (JSON values)."""
    text = json.dumps(fields, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
