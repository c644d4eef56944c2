"""Wakes threads that wait for a condition, without a lock that a signal handler could block on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Broadcast"]


class Broadcast:
    """Many waiters, woken all at once.

    A ``Condition`` or ``Event`` would do, if a signal handler did not have to notify: one that
    runs in the middle of their ``wait()`` would block on a lock that its own thread holds. Here
    every waiter has its own lock, and they are listed in a deque.
    """

    def __init__(self) -> None:
        self._waiters: deque[threading.Lock] = deque()

    def wait(self, ready: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until ``ready()``.

        Args:
            ready: Called at once and after each ``notify_all()``; cheap, raises nothing.
            timeout: Seconds; ``None`` for no limit.

        Returns:
            What ``ready()`` returned last. Safe in any thread; signal handlers run meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not ready():
            waiter = threading.Lock()
            waiter.acquire()
            self._waiters.append(waiter)
            # Again: it may have become true before our lock was in the list.
            if ready():
                return True
            left = -1.0 if deadline is None else deadline - time.monotonic()
            if deadline is not None and left <= 0:
                return ready()
            # In slices that a lock can wait for; a stale lock in the list costs one release.
            waiter.acquire(timeout=min(left, 3600.0) if left > 0 else -1)
        return True

    def notify_all(self) -> None:
        """Wake everybody. From any thread, and from a signal handler."""
        while self._waiters:
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return
            waiter.release()
