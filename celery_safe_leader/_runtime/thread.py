"""Drives a candidate from threads: one that talks to Redis, one that tells.

The telling is apart so that a listener that takes its time cannot delay a renewal, and so that a
lease that ends while a request hangs is noticed on time.
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
    """Runs one candidate. All methods are thread-safe; ``stop`` also in a signal handler."""

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
            options: What the candidate was told.
            name: Of the election, for people.
            store: Executes the requests.
            clock: Read instead of the system's.
        """
        self._store = store
        self.observer: Callable[[Event], None] | None = None
        """Called with every event, before the listeners, on the telling thread; says what fails."""
        self._reset()
        self.candidate = Candidate(
            options, name, deliver=self._deliver, clock=clock, reset=self._reset
        )

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._thread_lock = threading.RLock()
        # SimpleQueue: its put() may interrupt its own get(), as a signal handler does.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._told: SimpleQueue[Event | None] = SimpleQueue()
        self.changed = Broadcast()

    def elect(self) -> None:
        """Take part in the election from now on. Returns at once."""
        with self._thread_lock:
            self.candidate.start()
            if self._thread is None:
                name = f"leader:{self.candidate.name}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                teller = threading.Thread(
                    target=self._tell, args=(self._told,), name=f"{name}:events", daemon=True
                )
                teller.start()
                self._thread.start()
        self._wake.put(None)

    def stop(self, reason: DemotionReason, timeout: float) -> None:
        """Take part no longer; leadership ends at once, and is handed over if it was held.

        Args:
            reason: Told to listeners and to the history.
            timeout: Seconds to wait for the handover. After it the lease runs out by itself.
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
                # A loop cannot die in silence: whatever this was, the next step may work.
                logger.exception("Election %r: unexpected error; going on", self.candidate.name)
                self._sleep(self.candidate.options.wait)
            with self._thread_lock:
                if self.candidate.state in (State.IDLE, State.CLOSED):
                    self._thread = None
                    told, self._told = self._told, SimpleQueue()
                    told.put(None)
                    break
        if self.candidate.state is State.CLOSED:
            # A request that was on its way at close() may have connected once more.
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
            # Whatever a client raises, known or not, says only that no usable reply came.
            self.candidate.failed(request, exc)
        else:
            self.candidate.receive(request, reply)
        self.changed.notify_all()

    def _sleep(self, seconds: float | None) -> None:
        try:
            self._wake.get(timeout=seconds)
        except Empty:
            return

    def _deliver(self, events: list[Event]) -> None:
        for event in events:
            self._told.put(event)
        self.changed.notify_all()

    def _tell(self, told: SimpleQueue[Event | None]) -> None:
        left: float | None = None
        while True:
            try:
                event = told.get(timeout=left)
            except Empty:
                left = self.candidate.tick()
                continue
            if event is None:
                return
            self._tell_one(event)
            left = self.candidate.tick()

    def _tell_one(self, event: Event) -> None:
        try:
            observer = self.observer
            if observer is not None:
                observer(event)
            for listener, argument in self.candidate.calls(event, said=observer is not None):
                try:
                    listener(argument)
                except Exception:
                    logger.exception(
                        "Election %r: a listener of %s failed",
                        self.candidate.name,
                        type(event).__name__.lower(),
                    )
        except Exception:
            logger.exception("Election %r: telling %r failed", self.candidate.name, event)
