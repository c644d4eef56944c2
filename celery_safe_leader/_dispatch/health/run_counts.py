"""What a beat has done since its start, counted for monitors."""

from __future__ import annotations

from collections import Counter

from celery_safe_leader._runtime.service.counts import Distribution

__all__ = ["RunCounts"]


class RunCounts:
    """Counts over all tenures. The dispatching thread counts; any may read."""

    def __init__(self) -> None:
        self.published: Counter[str] = Counter()
        """Runs, by way to the broker."""
        self.missed: Counter[str] = Counter()
        """Runs that are not published, by reason."""
        self.lateness = Distribution(
            *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
            *(30.0, 60.0, 300.0, 3600.0),
        )
        """Seconds after its moment; of a batch, those of its earliest run."""
        self.batches = Distribution(1, 2, 5, 10, 20, 36, 100, 200, 500, 1_000)
        """Runs that arrived together."""
        self.loads = Distribution(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0)
        """Seconds that reading the ledger took at an election."""
        self.broker_errors = 0
        """Attempts to reach the broker, or to hand messages to it, that failed."""

    def arrived(self, count: int, way: str, lateness: float) -> None:
        """Count runs whose messages the broker has."""
        self.published[way] += count
        self.lateness.observe(max(0.0, lateness), count)
        self.batches.observe(count)
