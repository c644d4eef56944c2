"""Whether the loop of a process still turns."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["LoopWatch"]

_POLL = 0.02
"""Seconds."""


class LoopWatch:
    """When a loop last turned. ``turned`` is for the loop, all else for any thread.

    Args:
        longest: Seconds that a turn may take.
        ask: Lets the loop call ``turned`` soon, if it does not do so by itself all the time. Then
            the time counts from the question.
    """

    def __init__(self, longest: float, ask: Callable[[], object] | None = None) -> None:
        self.longest = longest
        self._ask = ask
        self._turned_at = time.monotonic()
        self._asked_at: float | None = None

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned_at = time.monotonic()
        self._asked_at = None

    @property
    def silent_for(self) -> float:
        """Seconds since it last turned, or since it was asked to and has not."""
        if self._ask is None:
            return time.monotonic() - self._turned_at
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def is_turning(self, patience: float = 1.0) -> bool:
        """Return whether the loop turns.

        Args:
            patience: Seconds for which an answer is waited for, if it has to be asked. Nothing
                depends on it but how soon a loop that stands is noticed.
        """
        if self._ask is not None:
            if self._asked_at is None:
                # One question at a time: a loop that stands collects no more of them.
                self._asked_at = time.monotonic()
                self._ask()
            until = time.monotonic() + patience
            while self._asked_at is not None and time.monotonic() < until:
                time.sleep(_POLL)
        return self.silent_for <= self.longest
