"""How long to pause after repeated failures."""

from __future__ import annotations

__all__ = ["backoff"]

_MOST_DOUBLINGS = 10


def backoff(failures: int, *, first: float, longest: float) -> float:
    """Return the pause after a number of failures in a row: doubled each time, up to a limit.

    Args:
        failures: How many there were, at least 1.
        first: The pause after the first one.
        longest: The longest pause.
    """
    return min(longest, first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
