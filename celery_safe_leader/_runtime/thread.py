"""Drives a candidate from threads: one talks to Redis, one hands events on, one calls listeners.

Listeners have their own thread so that a slow one delays nothing but later events. The thread that
hands events on also notices on time when the lease ends while a request hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from celery_safe_leader._core.events import DemotionReason, Event
from celery_safe_leader._core.messages import Await, Leave
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.ports import Store
from celery_safe_leader._core.state import State
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._runtime.broadcast import Broadcast
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.clock import Clock
from celery_safe_leader._runtime.ending import Ending
from celery_safe_leader._runtime.teller import Teller

__all__ = ["ThreadRunner"]

_LAST_EVENTS = 1.0
"""Seconds within which the last events have to be handed on at a shutdown."""
_LEAVE = 0.5
"""Seconds within which a candidate has to be taken off the list at a shutdown."""


class ThreadRunner:
    """Runs one candidate. Thread-safe; signal handlers may call ``stop()`` and ``shutdown()``."""

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
        self._name = name
        self.observer: Callable[[Event], None] | None = None
        """Called with every event before the listeners are, on the thread that hands events on: it
        logs failures of the store, and does not block."""
        self._reset()
        self.candidate = Candidate(
            options, name, deliver=self._enqueue, clock=clock, reset=self._reset
        )

    def _reset(self) -> None:
        self._thread: threading.Thread | None = None
        self._events_thread: threading.Thread | None = None
        self._thread_lock = threading.RLock()
        # SimpleQueue: a signal handler may call put() in the middle of its get() or put().
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._events: SimpleQueue[Event | None] = SimpleQueue()
        self._enqueued = self._observed = 0
        self._is_away = False
        """Whether Redis did not answer the last request."""
        self._teller = Teller(self._name, self._tell, lambda: self._events.put(None))
        self._shutdown = Ending(f"leader:{self._name}:shutdown")
        self.changed = Broadcast()

    def elect(self) -> None:
        """Take part in the election. Returns at once.

        Raises:
            LifecycleError: It takes part already, or was shut down.
            RuntimeError: There can be no more threads; it takes no part.
        """
        with self._thread_lock:
            self.candidate.start()
            try:
                self._start_threads()
            except RuntimeError:
                self.candidate.stop(DemotionReason.RESIGNED)
                self._events.put(None)
                raise
        self._wake.put(None)

    def _start_threads(self) -> None:
        name = f"leader:{self._name}"
        # What is left of an earlier tenure is told by the same threads, before what comes now.
        if self._events_thread is None:
            thread = threading.Thread(target=self._hand_on, name=f"{name}:events", daemon=True)
            thread.start()
            self._events_thread = thread
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=name, daemon=True)
            thread.start()
            self._thread = thread

    def stop(
        self, reason: DemotionReason, timeout: float, detail: str = "", successor: str = ""
    ) -> None:
        """Stop taking part; leadership ends at once, and is handed over.

        Args:
            reason: For listeners and for the history.
            timeout: Seconds to wait for the handover. After that the lease runs out by itself.
            detail: For the history, in place of the reason.
            successor: Candidate id of the one that the others are to let go first.
        """
        ending = Ending(f"leader:{self._name}:stop")
        self._end(ending, reason, lambda: self._resign(reason, timeout, detail, successor))

    def shutdown(self, timeout: float) -> None:
        """Stop taking part, and close the connections for good.

        Every call returns at the end of the first one, also one in a signal handler that
        interrupts it.

        Args:
            timeout: Seconds to wait for the handover.
        """

        def end() -> None:
            self._resign(DemotionReason.SHUTDOWN, timeout)
            left = min(timeout, _LEAVE)
            self.changed.wait(lambda: self._thread is None or self._is_away, left)
            self._close()
            # The process may end after this, and log lines of the end with it.
            self.changed.wait(lambda: self._observed >= self._enqueued, _LAST_EVENTS)

        self._end(self._shutdown, DemotionReason.SHUTDOWN, end)

    def _end(self, ending: Ending, reason: DemotionReason, function: Callable[[], None]) -> None:
        if self.candidate.is_locked_here():
            # A signal handler in the middle of elect() or of a view: nobody can go on before it
            # returns. What can be done is done here; that goes no further than this lock.
            self.candidate.stop(reason)
            ending.start(function)
        else:
            ending.run(function)

    def _resign(
        self, reason: DemotionReason, timeout: float, detail: str = "", successor: str = ""
    ) -> None:
        awaiting = self.candidate.stop(reason, detail, successor)
        if awaiting is not None:
            self._store.interrupt(awaiting)
        self._wake.put(None)
        self.changed.notify_all()
        self.changed.wait(lambda: self.candidate.state is not State.RESIGNING, timeout)

    def _close(self) -> None:
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
                logger.exception("Election %r: unexpected error; continuing", self._name)
                self._sleep(self.candidate.options.wait)
            if not self._leave():
                continue  # if it stops from here on, the next time takes it off the list
            with self._thread_lock:
                if self.candidate.state in (State.IDLE, State.CLOSED):
                    self._thread = None
                    self._events.put(None)
                    break
        if self.candidate.state is State.CLOSED:
            # A request that was under way at close() may have connected again.
            self._store.close()
        self.changed.notify_all()

    def _leave(self) -> bool:
        """Take the candidate off the list of those that take part, if it does no more.

        Returns:
            Whether it takes no part.
        """
        state = self.candidate.state
        if state is State.IDLE and not self._is_away:
            try:
                self._store.execute(Leave(self.candidate.clock.now()))
            except Exception as exc:
                # For people alone; after three ttls they are told that it says nothing any more.
                logger.debug("Election %r: still listed: %s", self._name, exc)
        return state in (State.IDLE, State.CLOSED)

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
            self._is_away = self._is_away or not isinstance(request, Await)
            self.candidate.failed(request, exc)
        except BaseException as exc:
            # As from code of the user's that exits, such as a credential provider.
            self.candidate.failed(request, RuntimeError(f"raised {exc!r}"))
        else:
            self._is_away = False
            self.candidate.receive(request, reply)
        self.changed.notify_all()

    def _sleep(self, seconds: float | None) -> None:
        try:
            self._wake.get(timeout=seconds)
        except Empty:
            return

    def _enqueue(self, events: list[Event]) -> None:
        self._enqueued += len(events)
        for event in events:
            self._events.put(event)
        self.changed.notify_all()

    def _hand_on(self) -> None:
        """Hand events on; notice the end of the lease, and a listener that does not return."""
        while True:
            waits = [self.candidate.tick(), self._teller.look()]
            shortest = min((wait for wait in waits if wait is not None), default=None)
            try:
                event = self._events.get(timeout=shortest)
            except Empty:
                continue
            if event is not None:
                self._observe(event)
                self._observed += 1
                self.changed.notify_all()
            elif self._is_over():
                return

    def _is_over(self) -> bool:
        with self._thread_lock:
            if self._thread is not None or not self._events.empty():
                return False
            if self._teller.is_watched:
                return False  # it wakes this thread when it is idle
            self._events_thread = None
            return True

    def _observe(self, event: Event) -> None:
        observer = self.observer
        try:
            if observer is not None:
                observer(event)
        except BaseException:
            logger.exception("Election %r: handling %r failed", self._name, event)
        if self.candidate.has_listeners(event):
            self._teller.add(event)
        elif observer is None:
            self.candidate.log_unheard(event)

    def _tell(self, event: Event) -> None:
        for listener, argument in self.candidate.listener_calls(event):
            try:
                listener(argument)
            except BaseException:
                # SystemExit as well: on this thread it would end nothing but the telling.
                logger.exception(
                    "Election %r: a listener of %s failed", self._name, type(event).__name__.lower()
                )
