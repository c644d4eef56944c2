"""Run a function on a background thread while the caller waits and stays responsive to signals.

Beat's main thread gets SIGTERM at any line and has to leave at once. A batch that is being
published must not be torn in the middle for it: it runs here, and the signal handler waits for
its end before it hands leadership over.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

from celery_safe_leader._runtime.broadcast import Broadcast

__all__ = ["BackgroundCall", "BackgroundThread"]

T = TypeVar("T")


class BackgroundCall(Generic[T]):
    """A call on the background thread: whether it is done, its result, its error.

    It sees the context (``contextvars``) of the thread that makes it, in a copy: other people's
    code finds there what it would find on beat's main thread.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self.function = function
        self._context = contextvars.copy_context()
        self.done = False
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call the function and keep what it returns or raises. Raises nothing."""
        try:
            self.result = self._context.run(self.function)
        except BaseException as exc:
            self.error = exc
        self.done = True


class BackgroundThread:
    """One daemon thread, started at the first call. For one caller at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[BackgroundCall[object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._changed = Broadcast()

    def run(self, function: Callable[[], T]) -> T:
        """Run ``function`` there and return what it returns, or raise what it raises.

        Signal handlers of the calling thread run meanwhile. If one raises, the function goes on
        and nobody waits for it: see ``wait_idle``.
        """
        call = self.start(function)
        self.wait(call, None)
        if call.error is not None:
            raise call.error
        return call.result  # type: ignore[return-value]

    def start(self, function: Callable[[], T]) -> BackgroundCall[T]:
        """Start ``function`` there and return its call at once; the call keeps what it raises."""
        if self._thread is None:
            thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        call = BackgroundCall(function)
        self._calls.put(call)  # type: ignore[arg-type]
        return call

    def wait(self, call: BackgroundCall[T], timeout: float | None) -> bool:
        """Wait for the end of a call; return whether it has ended. Signal handlers run."""
        return self._changed.wait(lambda: call.done, timeout)

    def wait_idle(self, timeout: float) -> bool:
        """Wait until what was started by now has ended; return whether it has.

        From any thread, and while a signal handler holds up the thread that starts calls: a call
        that it has not put into the queue yet is not waited for.
        """
        if self._thread is None:
            return True
        return self.wait(self.start(_nothing), timeout)

    def close(self) -> None:
        """End the thread after its current call."""
        self._calls.put(None)
        self._thread = None

    def _loop(self) -> None:
        while True:
            call = self._calls.get()
            if call is None:
                return
            call.run()
            self._changed.notify_all()


def _nothing() -> None:
    """Do nothing: a call that has ended when all before it have."""
