"""Wakes threads that wait for a condition, without a lock that a signal handler could block on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

__all__ = ["Broadcast"]


class Broadcast:
    """Many waiters, woken all at once.

    A ``Condition`` or ``Event`` would do, if a signal handler did not have to notify: one that
    runs in the middle of their ``wait()`` would block on a lock that its own thread holds. Here
    every waiter has its own lock, and they are listed in a deque for as long as they wait.
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
            left = None if deadline is None else deadline - time.monotonic()
            if not self._wait_once(ready, left):
                return ready()
        return True

    def _wait_once(self, ready: Callable[[], bool], left: float | None) -> bool:
        """Wait for one notification; return whether there was time left to wait."""
        waiter = threading.Lock()
        waiter.acquire()
        try:
            self._waiters.append(waiter)
            # Again: it may have become true before our lock was in the list.
            if not ready():
                if left is not None and left <= 0:
                    return False
                # In slices that a lock can wait for.
                waiter.acquire(timeout=-1 if left is None else min(left, 3600.0))
            return True
        finally:
            # Also when a signal handler raised; whoever was notified is not in the list any more.
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def notify_all(self) -> None:
        """Wake everybody. From any thread, and from a signal handler."""
        # No more than there are now: who is woken for nothing waits again, behind them.
        for _ in range(len(self._waiters)):
            try:
                waiter = self._waiters.popleft()
            except IndexError:
                return
            waiter.release()
