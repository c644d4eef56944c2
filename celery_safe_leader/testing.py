"""Leadership for unit tests, without Redis and without an election.

``with granted_leadership() as leadership:`` lets the leader-only tasks of this process see a
leadership that the test grants, ends and counts: tasks that are called directly, by ``apply()``, in
eager mode, or by a worker in a thread of this process (``celery.contrib.testing``). As a fixture of
pytest::

    @pytest.fixture
    def leadership():
        with granted_leadership() as granted:
            yield granted

Nothing here belongs into a program that is not a test: no other process knows of this leadership.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._worker.leader_only import leadership as reading
from celery_safe_leader.errors import ConfigurationError, LifecycleError

__all__ = ["GrantedLeadership", "granted_leadership"]

_LENGTH = 86_400.0
"""Seconds that a granted lease lasts unless the test ends it."""
_MOST = 2**53
"""Tokens are smaller."""
_CANDIDATE = "test:0:0"
"""The candidate's id that tasks see."""


class GrantedLeadership:
    """A leadership that a test grants, ends and counts. Thread-safe."""

    def __init__(self, token: int) -> None:
        """Use ``granted_leadership()`` instead."""
        self._lock = threading.Lock()
        self._next_token = token
        self._lease: Lease | None = None
        self.tenures = 0
        """How often it was granted."""
        self.runs = 0
        """How many runs of leader-only tasks have begun under it."""

    @property
    def token(self) -> int | None:
        """The fencing token; ``None`` while nobody leads."""
        lease = self._lease
        return None if lease is None else lease.fencing_token

    def grant(self, *, seconds: float = _LENGTH) -> int:
        """Begin a tenure, and return its token: higher than the one before.

        Args:
            seconds: How long the lease lasts, at least 0.

        Raises:
            ConfigurationError: ``seconds`` is not such a number.
            LifecycleError: It is granted already.
        """
        known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not known or not 0 <= seconds <= sys.float_info.max:
            raise ConfigurationError("seconds", repr(seconds), "a number of seconds, 0 or more")
        with self._lock:
            if self._lease is not None:
                raise LifecycleError("leadership is granted already: call end() before grant()")
            now = SystemClock().now()
            deadline = Instant(now.boottime + seconds, now.raw + seconds, now.wall + seconds)
            self._lease = Lease(self._next_token, deadline, now)
            self._next_token += 1
            self.tenures += 1
            return self._lease.fencing_token

    def end(self) -> None:
        """End the tenure, as a demotion does; tasks that run notice. May be called twice."""
        with self._lock:
            self._lease = None

    # What the guard of leader-only tasks calls

    def read(self) -> tuple[str, Lease] | None:
        """Return the candidate's id and the lease, if there is one."""
        lease = self._lease
        return None if lease is None else (_CANDIDATE, lease)

    def begin_run(self) -> None:
        """Count a run."""
        with self._lock:
            self.runs += 1


@contextmanager
def granted_leadership(*, leads: bool = True, token: int = 1) -> Iterator[GrantedLeadership]:
    """Let the leader-only tasks of this process see a leadership that the test decides on.

    Args:
        leads: Whether the block begins with leadership granted.
        token: The fencing token of the first tenure, at least 1.

    Raises:
        ConfigurationError: ``token`` is not such a number.
        LifecycleError: Another such block is open in this process.
    """
    if not isinstance(token, int) or isinstance(token, bool) or not 1 <= token < _MOST:
        raise ConfigurationError("token", repr(token), "a whole number from 1 to 2^53 - 1")
    if reading.granted is not None:
        raise LifecycleError("granted_leadership() is open already in this process")
    made = GrantedLeadership(token)
    if leads:
        made.grant()
    reading.granted = made
    try:
        yield made
    finally:
        made.end()
        reading.granted = None
