"""The pause before another attempt."""

from __future__ import annotations

__all__ = ["backoff"]


def backoff(failures: int, *, first: float, longest: float) -> float:
    """Return the pause after ``failures`` failures in a row: it doubles, up to ``longest``.

    Args:
        failures: At least 1.
        first: Seconds after the first failure.
        longest: Seconds at most.
    """
    return min(longest, first * 2.0 ** min(failures - 1, 10))
