"""Drives a candidate from threads: one talks to Redis, one calls listeners.

Listeners have their own thread so that a slow one cannot delay a renewal. That thread also notices
on time when the lease ends while a request hangs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from celery_safe_leader._core.events import DemotionReason, Event
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.ports import Store
from celery_safe_leader._core.state import State
from celery_safe_leader._runtime.broadcast import Broadcast
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.clock import Clock

__all__ = ["ThreadRunner"]

logger = logging.getLogger("celery_safe_leader")


class ThreadRunner:
    """Runs one candidate. Thread-safe; a signal handler may call ``stop()``."""

    def __init__(
        self,
        options: Options,
        name: str,
        store: Store,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Make an idle runner: no thread, no IO.

        Args:
            options: ttl, wait and what else the candidate is configured with.
            name: Of the election, for logs and errors.
            store: Executes the requests.
            clock: Used instead of the system's.
        """
        self._store = store
        self.observer: Callable[[Event], None] | None = None
        """Called with every event before the listeners are, on their thread; logs failures."""
        self._reset()
        self.candidate = Candidate(
            options, name, deliver=self._enqueue, clock=clock, reset=self._reset
        )

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.RLock()
        # SimpleQueue: a signal handler may call put() in the middle of its get() or put().
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self.changed = Broadcast()

    def elect(self) -> None:
        """Take part in the election. Returns at once."""
        with self._thread_lock:
            self.candidate.start()
            if self._thread is None:
                name = f"leader:{self.candidate.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                listener_thread = threading.Thread(
                    target=self._call_listeners,
                    args=(self._events,),
                    name=f"{name}:events",
                    daemon=True,
                )
                listener_thread.start()
                self._thread.start()
        self._wake.put(None)

    def stop(self, reason: DemotionReason, timeout: float) -> None:
        """Stop taking part; leadership ends at once, and is handed over.

        Args:
            reason: For listeners and for the history.
            timeout: Seconds to wait for the handover. After that the lease runs out by itself.
        """
        awaiting = self.candidate.stop(reason)
        if awaiting is not None:
            self._store.interrupt(awaiting)
        self._wake.put(None)
        self.changed.wait(lambda: self.candidate.state is not State.RESIGNING, timeout)

    def close(self) -> None:
        """End for good."""
        self.candidate.close()
        self._wake.put(None)
        self.changed.notify_all()
        self._store.close()

    def _run(self) -> None:
        while True:
            try:
                self._step()
            except Exception:
                # The loop must not die silently: whatever this was, the next step may work.
                logger.exception("Election %r: unexpected error; continuing", self.candidate.name)
                self._sleep(self.candidate.options.wait)
            with self._thread_lock:
                if self.candidate.state in (State.IDLE, State.CLOSED):
                    self._thread = None
                    events, self._events = self._events, SimpleQueue()
                    events.put(None)
                    break
        if self.candidate.state is State.CLOSED:
            # A request that was under way at close() may have connected again.
            self._store.close()
        self.changed.notify_all()

    def _step(self) -> None:
        request = self.candidate.poll()
        if request is None:
            if self.candidate.state not in (State.IDLE, State.CLOSED):
                self._sleep(self.candidate.pause())
            return
        try:
            reply = self._store.execute(request)
        except Exception as exc:
            # Whatever a client raises only means that no usable reply came.
            self.candidate.failed(request, exc)
        else:
            self.candidate.receive(request, reply)
        self.changed.notify_all()

    def _sleep(self, seconds: float | None) -> None:
        try:
            self._wake.get(timeout=seconds)
        except Empty:
            return

    def _enqueue(self, events: list[Event]) -> None:
        for event in events:
            self._events.put(event)
        self.changed.notify_all()

    def _call_listeners(self, events: SimpleQueue[Event | None]) -> None:
        left: float | None = None
        while True:
            try:
                event = events.get(timeout=left)
            except Empty:
                left = self.candidate.tick()
                continue
            if event is None:
                return
            self._handle(event)
            left = self.candidate.tick()

    def _handle(self, event: Event) -> None:
        try:
            observer = self.observer
            if observer is not None:
                observer(event)
            for listener, argument in self.candidate.listener_calls(
                event, logged=observer is not None
            ):
                try:
                    listener(argument)
                except Exception:
                    logger.exception(
                        "Election %r: a listener of %s failed",
                        self.candidate.name,
                        type(event).__name__.lower(),
                    )
        except Exception:
            logger.exception("Election %r: handling %r failed", self.candidate.name, event)
