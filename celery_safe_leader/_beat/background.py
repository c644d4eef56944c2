"""Run a function on a thread of its own while the caller waits, open to signals.

Beat's main thread gets SIGTERM at any line and has to leave at once. A batch that is being
published must not be torn in the middle for it: it runs here, and the signal handler waits for
its end before it hands leadership over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from celery_safe_leader._runtime.broadcast import Broadcast

__all__ = ["BackgroundCall", "BackgroundThread"]

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A call that was handed over, and what came of it."""

    def __init__(self, function: Callable[[], T]) -> None:
        """Remember what to call."""
        self.function = function
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call it. Raises nothing."""
        try:
            self.result = self.function()
        except BaseException as exc:
            self.error = exc
        self.done = True


class BackgroundThread:
    """One daemon thread, started at the first call. For one caller at a time."""

    def __init__(self, name: str) -> None:
        """Give the thread a name."""
        self._name = name
        self._jobs: SimpleQueue[BackgroundCall[object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._changed = Broadcast()
        self._busy = False

    def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` there and return what it returns, or raise what it raises.

        A signal handler of the calling thread runs meanwhile; if it raises, the function goes on
        and nobody waits for it: see ``wait_idle``.
        """
        job = self.start(function)
        self.wait(job, None)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]

    def start(self, function: Callable[[], T]) -> BackgroundCall[T]:
        """Begin to run ``function`` there, and return at once; what it raises is in the job."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()
        job = BackgroundCall(function)
        self._busy = True
        self._jobs.put(job)  # type: ignore[arg-type]
        return job

    def wait(self, job: BackgroundCall[T], timeout: float | None) -> bool:
        """Wait for the end of a job; tell whether it has ended. Signal handlers run meanwhile."""
        return self._changed.wait(lambda: job.done, timeout)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until nothing runs there; from any thread, also in a signal handler."""
        return self._changed.wait(lambda: not self._busy, timeout)

    def close(self) -> None:
        """End the thread after what it does now."""
        self._jobs.put(None)
        self._thread = None

    def _loop(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            job.run()
            self._busy = False
            self._changed.notify_all()
