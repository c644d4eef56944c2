"""What the leader of one tenure has done, counted for people."""

from __future__ import annotations

from collections.abc import Sequence

from celery_safe_leader._dispatch.run import Run
from celery_safe_leader._schedules.moments import SECOND_US, now_us

__all__ = ["Tally"]


class Tally:
    """Counts of one tenure. One thread counts; any may read."""

    def __init__(self) -> None:
        self.published = 0
        """Runs whose messages are in their queues."""
        self.given_up = 0
        """Runs that were recorded without a message, since it could not be built."""
        self.missed = 0
        """Runs that were too late to be published: by policy, expired, or without an answer."""
        self.lateness: float | None = None
        """Seconds by which the latest of the runs published last came after its moment."""

    def arrived(self, runs: Sequence[Run]) -> None:
        """Count runs that are published."""
        if runs:
            self.published += len(runs)
            now = now_us()
            late = max((run.arrived_us or now) - run.claim.moment for run in runs)
            self.lateness = late / SECOND_US
