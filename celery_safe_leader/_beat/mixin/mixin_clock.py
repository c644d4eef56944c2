"""Whether the wall clock can be trusted by which another scheduler finds out what is due."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_safe_leader._beat.clock_trouble import ClockTrouble
from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._dispatch.health.clock_watch import ClockOffError
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import SECOND_US, now_us
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["MixinClock"]


class MixinClock:
    """Compares this machine's clock with Redis's, and with one that nobody sets.

    Renewals of the lease tell Redis's time; where they do not, and where they give reason to doubt,
    Redis is asked. One thread at a time.

    Args:
        ttl: Seconds, of the election.
        redis_time: Returns Redis's clock in microseconds since 1970. It raises a
            ``SafeLeaderError`` if there is no answer.
    """

    def __init__(self, ttl: float, redis_time: Callable[[], int]) -> None:
        self._trouble = ClockTrouble(ttl)
        self._redis_time = redis_time
        self._interval = 2 * ttl / 3  # a renewal comes each third
        self._look: LedgerLook | None = None
        self._ask_at = 0.0
        self._was_set = False

    def begin(self) -> None:
        """Begin a tenure: Redis is asked before anything else is done in it."""
        self._look, self._ask_at = None, 0.0

    def wants_check(self, look: LedgerLook | None) -> bool:
        """Return whether ``check()`` has something to do. Does no IO.

        Args:
            look: What the last renewal of the lease saw; ``None`` if renewals do not look.
        """
        now = time.monotonic()
        if self._trouble.watch.has_jumped(now_us() / SECOND_US, now):
            self._was_set, self._ask_at = True, 0.0
        if look is not None and look is not self._look:
            self._look = look
            doubtful = self._trouble.watch.doubts(look.sent_at.wall, look.server_us)
            # Its two moments are too far apart to judge by.
            self._ask_at = 0.0 if doubtful else now + self._interval
        return self._was_set or now >= self._ask_at

    def check(self, token: int, has_better: Callable[[int], bool]) -> bool:
        """Compare the clocks if there is reason to, and say so each minute if they differ.

        Args:
            token: Of the present tenure.
            has_better: As for ``ClockTrouble.must_stand_down()``.

        Returns:
            Whether the clock was set since the last check, or is off and counts from now on: then
            what was computed by it is out of date.

        Raises:
            ClockOffError: It is off by too much to lead.
        """
        was_set, self._was_set = self._was_set, False
        watch = self._trouble.watch
        if time.monotonic() >= self._ask_at:
            self._compare()
        try:
            watch.check()
        except ClockOffError:
            if self._trouble.must_stand_down(token, has_better):
                raise
            was_set = True
        self._trouble.complain()
        return was_set

    def _compare(self) -> None:
        self._ask_at = time.monotonic() + self._interval
        before = now_us()
        try:
            redis_us = self._redis_time()
        except SafeLeaderError as exc:
            logger.debug("Redis's clock cannot be read: %s", exc)
            return
        self._trouble.watch.compare(before, redis_us, now_us())
