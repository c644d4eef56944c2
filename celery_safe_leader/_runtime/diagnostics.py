"""Warns of what ends leaderships again and again: clock jumps, and a ttl that is too short."""

from __future__ import annotations

import logging

from celery_safe_leader._core.instant import Instant

__all__ = ["Diagnostics"]

logger = logging.getLogger("celery_safe_leader")

_JUMP = 0.5
"""Seconds between the wall clock and the others that are a jump, not slewing."""
_SLEWING = 0.002
"""Fraction of the time that has passed; NTP slews by a quarter of this at most."""
_IN_A_ROW = 3


class Diagnostics:
    """Checks the moments and round trips of one candidate; warns once of each. Not thread-safe."""

    def __init__(self, election: str, ttl: float) -> None:
        self._election = election
        self._ttl = ttl
        self._last: Instant | None = None
        self._jumped = False
        self._slow = 0
        self._shortest = 0.0
        self._warned_slow = False

    def note_moment(self, now: Instant) -> None:
        """Compare the clocks with those of the moment before."""
        last, self._last = self._last, now
        if last is None or self._jumped:
            return
        passed = now.boottime - last.boottime
        jump = (now.wall - last.wall) - passed
        if abs(jump) > _JUMP + _SLEWING * passed:
            self._jumped = True
            logger.warning(
                "Election %s: this machine's wall clock jumped by %.1f s. A jump forward ends a "
                "leadership early, and periodic tasks are due by this clock. Let NTP slew it "
                "instead of setting it; further jumps are not reported",
                self._election,
                jump,
            )

    def note_round_trip(self, seconds: float) -> None:
        """Count slow requests in a row, answered or given up."""
        if self._warned_slow:
            return
        # A request is given up after about a third of the ttl: its time limit is measured by
        # another clock.
        if seconds < 0.3 * self._ttl:
            self._slow, self._shortest = 0, 0.0
            return
        self._slow += 1
        self._shortest = min(self._shortest or seconds, seconds)
        if self._slow >= _IN_A_ROW:
            self._warned_slow = True
            logger.warning(
                "Election %s: the last %d requests took %.2f s or longer, answered or not, which "
                "is a third of the ttl of %g s. If Redis is up, the ttl is too short for this "
                "connection: set at least %.2g s",
                self._election,
                self._slow,
                self._shortest,
                self._ttl,
                10 * self._shortest,
            )
