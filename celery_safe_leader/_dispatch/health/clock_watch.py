"""Whether this machine's wall clock can be trusted: it decides when runs are due.

It is compared with Redis's, whose time each write to the ledger returns, and with a clock that
nobody sets.
"""

from __future__ import annotations

from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["SLACK", "ClockOffError", "ClockWatch"]

SLACK = 5.0
"""Seconds by which a clock may always be off, also where the ttl is shorter."""

_JUMP = 1.0
"""Seconds by which the wall clock may go faster or slower than time between two looks."""


class ClockOffError(SafeLeaderError):
    """This machine's clock is not Redis's, by more than a leader may be off.

    Args:
        offset: Seconds by which it is ahead; negative if it is behind.
    """

    def __init__(self, offset: float) -> None:
        super().__init__(offset)
        self.offset = offset

    def __str__(self) -> str:
        way = "ahead of" if self.offset > 0 else "behind"
        return f"this machine's clock is {abs(self.offset):.1f} s {way} Redis's"


class ClockWatch:
    """The clock of one process, over all of its tenures. For one thread. Reads no clock.

    Args:
        slack: Seconds by which the clock may be off either way.
    """

    def __init__(self, slack: float) -> None:
        self._slack_us = round(slack * SECOND_US)
        self._known_us = 0
        self._off_us = 0
        self._drift: float | None = None

    @property
    def known(self) -> float:
        """Seconds by which it is ahead of Redis's, and goes on anyway; negative: behind."""
        return self._known_us / SECOND_US

    @property
    def ahead(self) -> float:
        """Seconds by which runs may lie further ahead of Redis's clock for it."""
        return max(0.0, self.known)

    @property
    def off(self) -> float:
        """Seconds by which the last comparison found it off, if by too much; else 0."""
        return self._off_us / SECOND_US

    def compare(self, before_us: int, redis_us: int, after_us: int) -> None:
        """Compare with Redis's time.

        Args:
            before_us: This clock before Redis was asked, in microseconds since 1970.
            redis_us: What Redis said.
            after_us: This clock after it had answered: an answer may take long, or be read late.
        """
        least, most = before_us - redis_us, after_us - redis_us
        self._off_us = 0
        if least <= self._slack_us and most >= -self._slack_us:
            if least >= -self._slack_us and most <= self._slack_us:
                self._known_us = 0  # else it may be as far off as before
        elif least > self._known_us + self._slack_us:
            self._off_us = least
        elif most < self._known_us - self._slack_us:
            self._off_us = most

    def doubts(self, own: float, redis_us: int) -> bool:
        """Return whether a moment of both clocks calls for a comparison. Changes nothing.

        Args:
            own: This clock shortly before Redis read its own, in seconds since 1970.
            redis_us: Redis's, in microseconds since 1970.
        """
        return abs(own * SECOND_US - redis_us - self._known_us) > self._slack_us

    def in_future(self, now_us: int) -> int | None:
        """Return the moment after which nothing can have run by this clock, if only it counts.

        Returns:
            Microseconds since 1970; ``None`` unless this clock is known to be behind Redis's.
        """
        return now_us + self._slack_us if self._known_us < 0 else None

    def check(self) -> None:
        """Raise ``ClockOffError`` if the last comparison found the clock off."""
        if self._off_us:
            raise ClockOffError(self.off)

    def accept(self, offset: float) -> None:
        """Go on by this clock, though it is off by so much: the fault is Redis's."""
        self._known_us, self._off_us = round(offset * SECOND_US), 0

    def has_jumped(self, wall: float, monotonic: float) -> bool:
        """Return whether the wall clock was set since the last look.

        Args:
            wall: Seconds since 1970.
            monotonic: Seconds of a clock that nobody sets.
        """
        before, self._drift = self._drift, wall - monotonic
        return before is not None and abs(self._drift - before) > _JUMP
