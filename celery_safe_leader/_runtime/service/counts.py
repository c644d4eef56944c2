"""Counts that a process keeps for monitors: plain numbers, that anybody may read at any time."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

from celery_safe_leader._core.events import Demoted, Elected, Event, StoreFailed

__all__ = ["Distribution", "ElectionCounts"]

_STOOD_DOWN = "stood_down:"


class Distribution:
    """How often a value was how large. One thread counts; any may read.

    Args:
        bounds: Upper bounds, rising.
    """

    def __init__(self, *bounds: float) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float], counts: Sequence[int], total: float) -> Distribution:
        """Return one with the contents of another.

        Raises:
            ValueError: There is not one count for each bound, and one for what is larger.
        """
        if len(counts) != len(bounds) + 1:
            raise ValueError(f"{len(counts)} counts for {len(bounds)} bounds")
        made = cls(*bounds)
        made._counts, made.sum = list(counts), total
        return made

    def contents(self) -> tuple[tuple[float, ...], list[int], float]:
        """Return bounds, how many values lie below each and above all, and their sum."""
        return self.bounds, list(self._counts), self.sum

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self._counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def cumulative(self) -> list[tuple[float, int]]:
        """Return how many values were at most as large as each bound, infinity at the end."""
        total, found = 0, []
        for bound, count in zip((*self.bounds, float("inf")), list(self._counts), strict=True):
            total += count
            found.append((bound, total))
        return found


class ElectionCounts:
    """Of one candidate, over all its tenures. Counted under its lock."""

    def __init__(self) -> None:
        self.tenures = 0
        self.demotions: Counter[str] = Counter()
        """By reason."""
        self.stood_down: Counter[str] = Counter()
        """By cause."""
        self.redis_errors = 0
        """Requests of the election without a usable answer."""
        self.renewals = Distribution(
            0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0
        )
        """Seconds from the request to the answer."""

    def note(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, Elected):
            self.tenures += 1
        elif isinstance(event, Demoted):
            self.demotions[event.reason.value] += 1
        elif isinstance(event, StoreFailed):
            self.redis_errors += 1

    def resigned(self, detail: str) -> None:
        """Count a leader that could not do its work, by the word for the history."""
        if detail.startswith(_STOOD_DOWN):
            self.stood_down[detail.removeprefix(_STOOD_DOWN)] += 1
