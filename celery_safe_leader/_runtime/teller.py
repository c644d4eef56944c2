"""Tells events to listeners, which may block: one after the other, on a thread of their own."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from celery_safe_leader._core.events import Demoted, Elected, Event
from celery_safe_leader._loggers import library_logger as logger

__all__ = ["MOST_WAITING", "PATIENCE", "Teller", "WaitingEvents"]

PATIENCE = 5.0
"""Seconds after which it is said that a listener has not returned."""
MOST_WAITING = 1_000
"""Events that wait behind a listener that does not return. Further tenures are not told at all."""
_OURS = ("celery_safe_leader.", "celery.utils.", "threading")
"""Modules whose functions are not the listener: they only lead to it."""


class WaitingEvents:
    """Events that wait to be told, oldest first; not too many. Not thread-safe.

    Each ``Elected`` that is told has its ``Demoted`` told as well, and the other way round.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._untold: int | None = None

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event) -> None:
        """Add an event, unless too many wait."""
        if isinstance(event, Demoted):
            if event.fencing_token == self._untold:
                return
        elif len(self._events) >= MOST_WAITING:
            if isinstance(event, Elected):
                self._untold = event.fencing_token
            return
        self._events.append(event)

    def pop(self) -> Event:
        """Remove and return the oldest."""
        return self._events.popleft()


class Teller:
    """Calls ``tell`` with each event, on a thread that lives as long as there are any.

    Args:
        election: For the log, and for the thread's name.
        tell: May block, and may raise anything, which is logged.
        idle: Called on that thread when there is nothing more to tell.
    """

    def __init__(
        self, election: str, tell: Callable[[Event], None], idle: Callable[[], None]
    ) -> None:
        self._election = election
        self._tell = tell
        self._idle = idle
        # Only for our own threads: no signal handler comes here.
        self._lock = threading.Lock()
        self._waiting = WaitingEvents()
        self._thread: threading.Thread | None = None
        self._current: Event | None = None
        self._since = 0.0
        self._said = False

    def add(self, event: Event) -> None:
        """Tell an event after those that wait. Does not block; from one thread."""
        with self._lock:
            self._waiting.add(event)
            if self._thread is not None:
                return
            self._since, self._said = time.monotonic(), False
            name = f"leader:{self._election}:listeners"
            self._thread = thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._run()  # there can be no more threads

    @property
    def is_watched(self) -> bool:
        """Whether ``look()`` has to be called again."""
        with self._lock:
            return self._thread is not None and not self._said

    def look(self) -> float | None:
        """Say which listener has not returned for long; once for each event.

        Returns:
            Seconds until it would have to be said; ``None`` if nothing is being told, or it has
            been said.
        """
        with self._lock:
            thread, event = self._thread, self._current
            if thread is None or self._said:
                return None
            left = self._since + PATIENCE - time.monotonic()
            if left > 0:
                return left
            self._said = True
        logger.warning(
            "Election %r: %s has not returned for %g s since it was told %s. Later events are "
            "told after it; nothing else waits for it",
            self._election,
            _describe(thread.ident),
            PATIENCE,
            type(event).__name__.lower(),
        )
        return None

    def _run(self) -> None:
        while True:
            with self._lock:
                if not len(self._waiting):
                    self._thread = self._current = None
                    break
                self._current = event = self._waiting.pop()
                self._since, self._said = time.monotonic(), False
            try:
                self._tell(event)
            except BaseException:
                # SystemExit as well: it ends nothing here but would end all telling.
                logger.exception("Election %r: handling %r failed", self._election, event)
        self._idle()


def _describe(ident: int | None) -> str:
    """Name the function of others that a thread is in, and the line where that stands."""
    frame = found = sys._current_frames().get(ident or 0)
    while frame is not None:
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(_OURS):
            found = frame
        frame = frame.f_back
    if found is None:
        return "a listener"
    code = found.f_code
    name = getattr(code, "co_qualname", code.co_name)  # since Python 3.11
    return f"{name} ({code.co_filename}:{found.f_lineno})"
