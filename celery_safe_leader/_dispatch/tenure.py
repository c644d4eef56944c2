"""One tenure of a leader, as everything that dispatches needs to know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
