"""Faults of whichever beat leads: killed, stopped for longer than its lease, told to end."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

from tests.support.celery.beats import Beat
from tests.support.celery.chaos import Fleet

__all__ = ["LeaderFaults"]

FAULTS = ("SIGKILL", "SIGSTOP", "SIGTERM")
STANDS = 3
"""For how many ttl a stopped leader stands still."""


class LeaderFaults:
    """Makes faults of the leader, each as often as the others, in an order that changes.

    Args:
        fleet: Whose leader. Who ended is followed by another one of the same release.
        choice: Chooses the faults and their moments.
        ttl: Of the lease, in seconds.
        moment: Waits for the moment at which the leader is struck. If not given, some time within
            a second: any point of a dispatch, not only right after leadership was seen in the log.
    """

    def __init__(
        self,
        fleet: Fleet,
        choice: random.Random,
        ttl: float,
        moment: Callable[[random.Random], None] | None = None,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self._fleet = fleet
        self._choice = choice
        self._stands = STANDS * ttl
        self._moment = moment or _within_a_second
        self._next: list[str] = []
        self._stopped: list[tuple[float, Beat]] = []

    def strike(self) -> None:
        """Do something to the leader."""
        leader = self._fleet.leader()
        if not self._next:
            self._next = self._choice.sample(FAULTS, len(FAULTS))
        fault = self._next.pop()
        self.faults[fault] += 1
        self._moment(self._choice)
        if fault == "SIGSTOP":
            leader.pause()
            self._stopped.append((time.monotonic() + self._stands, leader))
            return
        leader.kill() if fault == "SIGKILL" else leader.terminate()
        self._fleet.start_beat(release=self._fleet.release_of(leader))

    def rest(self, until: float) -> None:
        """Wait until a moment of the monotonic clock, and wake those that stood long enough."""
        for when, beat in self._stopped:
            time.sleep(max(0.0, min(when, until) - time.monotonic()))
            if time.monotonic() >= when:
                beat.resume()
        self._stopped = [(when, beat) for when, beat in self._stopped if beat.paused]
        time.sleep(max(0.0, until - time.monotonic()))

    def wake_all(self) -> None:
        """Wake those that stand still, once each has stood long enough."""
        self.rest(max((when for when, _ in self._stopped), default=0.0))


def _within_a_second(choice: random.Random) -> None:
    time.sleep(choice.uniform(0.0, 1.0))
