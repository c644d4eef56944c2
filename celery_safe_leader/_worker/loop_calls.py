"""Calls from other threads that a worker's loop executes at once.

Only the loop's thread may touch the worker's connection. ``Consumer.call_soon`` brings a call
there, but does not wake a loop that waits for the broker: with an event loop a socket does. The
gevent pool has none, and its loop waits for up to 2 s (``synloop`` of celery/worker/loops.py, read
in 5.4.0 to 5.7.0): there each wait is made shorter.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from celery_safe_leader._loggers import worker_logger as logger

__all__ = ["LoopCalls"]

_POLL = 0.2
"""Seconds between two looks for calls by a loop that nothing can wake."""


class LoopCalls:
    """Lets the loop of one worker call functions. ``soon`` is for any thread."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._calls: deque[Callable[[], object]] = deque()
        self._inner: socket.socket | None = None
        self._outer: socket.socket | None = None
        self._failure: Exception | None = None

    def soon(self, call: Callable[[], object]) -> None:
        """Let the loop call ``call``, from any thread; what it raises is logged."""
        self._calls.append(call)
        self._consumer.call_soon(self._run)
        if self._outer is not None:
            # A full socket wakes the loop, too; if it is closed, the worker ends.
            with contextlib.suppress(OSError):
                self._outer.send(b"\0")

    def fail(self, error: Exception) -> None:
        """End the worker's connection to the broker, which is made anew. On the loop's thread.

        Args:
            error: One of the consumer's connection errors.
        """
        if self._consumer.hub is not None:
            raise error
        # Whatever a call raises, this kind of loop logs; what a wait raises ends the connection.
        self._failure = error

    def start(self) -> None:
        """Prepare a new connection of the worker, before its loop begins."""
        if self._consumer.hub is not None:
            return
        connection = self._consumer.connection
        drain = connection.drain_events

        def drain_events(timeout: float | None = None, **kwargs: Any) -> Any:
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            shorter = _POLL if timeout is None else min(timeout, _POLL)
            return drain(timeout=shorter, **kwargs)

        connection.drain_events = drain_events

    def register(self, hub: Any) -> None:
        """Let the loop watch the socket; needed after each reconnect of the worker."""
        if self._inner is None:
            self._inner, self._outer = socket.socketpair()
            self._inner.setblocking(False)
            self._outer.setblocking(False)
        hub.add_reader(self._inner.fileno(), self._woken)
        self._consumer.call_soon(self._run)

    def close(self) -> None:
        """Close the socket."""
        for end in (self._inner, self._outer):
            if end is not None:
                end.close()

    def _woken(self) -> None:
        if self._inner is not None:
            with contextlib.suppress(OSError):
                self._inner.recv(4096)
        self._run()

    def _run(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            try:
                call()
            except self._consumer.connection_errors:
                raise
            except Exception:
                logger.exception("A call from the election failed in the worker's loop")
