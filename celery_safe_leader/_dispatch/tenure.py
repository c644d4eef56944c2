"""One tenure of a leader, as everything that dispatches needs to know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from celery_safe_leader._core.messages import LedgerLook

__all__ = ["Gate", "Tenure"]

Gate = Callable[[], bool]
"""Tells whether this process still leads. Asked right before each write to the broker."""


@dataclass(frozen=True, slots=True)
class Tenure:
    """The time for which a process leads under one fencing token.

    It is made once, when the process was elected, and handed down. It is over for good once its
    gate says so.
    """

    holder: str
    """Candidate id of the leader."""
    token: int
    """Its fencing token."""
    still_leads: Gate
    """Whether the process still leads under this token."""
    look: Callable[[], LedgerLook | None] = lambda: None
    """Returns what the latest renewal saw of the ledger; ``None`` if renewals do not look at it."""
    is_ending: Gate = lambda: False
    """Whether no further batch may begin, since the tenure is about to end: the one under way may
    be finished, so that the next leader need not settle it."""

    def may_begin(self) -> bool:
        """Return whether another batch may begin."""
        return self.still_leads() and not self.is_ending()
