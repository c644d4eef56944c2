"""Who led from when to when, and whether two did at once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Tenure", "overlaps"]


@dataclass(frozen=True)
class Tenure:
    """One process led at every instant from ``start`` to ``end``."""

    who: str
    token: int
    start: float
    """CLOCK_MONOTONIC, which all processes of the machine share."""
    end: float
    over: bool = True


def overlaps(tenures: Sequence[Tenure]) -> list[tuple[Tenure, Tenure]]:
    """List the pairs of tenures of different processes that have an instant in common."""
    return [
        (one, other)
        for one, other in itertools.combinations(tenures, 2)
        if one.who != other.who and max(one.start, other.start) <= min(one.end, other.end)
    ]
