"""What a beat does whose wall clock is off: it stands down, unless nobody does better."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_safe_leader._dispatch.health.clock_watch import SLACK, ClockOffError, ClockWatch
from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["ClockTrouble"]

_SAME_OFFSET = 1.0
"""Seconds by which a clock may go off further and is still off by the same."""
_COMPLAIN_EVERY = 60.0
"""Seconds."""


class ClockTrouble:
    """The clock of one beat, over all of its tenures. One thread at a time.

    Args:
        ttl: Seconds; the clock may be off by so much, or by 5 s if that is more.
    """

    def __init__(self, ttl: float) -> None:
        self.watch = ClockWatch(max(ttl, SLACK))
        """Compares it with Redis's."""
        self._was_off = (0, 0.0)  # in the tenure of this token, by these seconds
        self._complain_at = 0.0

    def must_stand_down(self, token: int, has_better: Callable[[int], bool]) -> bool:
        """Return whether this beat has to stand down, since the last comparison found it off.

        If not, the clock counts anyway from now on: it is Redis's that is wrong, or no beat
        has a better one.

        Args:
            token: Of the present tenure.
            has_better: Tells whether another beat led well since the tenure of a token. Called
                only if this clock was off by the same then.
        """
        offset = self.watch.off
        since, was_off = self._was_off
        if since and abs(offset - was_off) <= _SAME_OFFSET and not has_better(since):
            self.watch.accept(offset)
            return False
        self._was_off = (token, offset)
        logger.error(
            "%s. This beat stands down, so that one with a correct clock can lead",
            ClockOffError(offset),
        )
        return True

    def complain(self) -> None:
        """Log an error once a minute while this beat goes on by a clock that is off."""
        now, known = time.monotonic(), self.watch.known
        if known and now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            logger.error(
                "This machine's clock and Redis's differ by %.1f s, and no other beat does better: "
                "runs are due by this machine's. Correct the clock of Redis's machine, or of this "
                "one",
                abs(known),
            )
