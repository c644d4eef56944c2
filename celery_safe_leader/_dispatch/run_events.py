"""Tells others, afterwards, what became of runs: off the dispatching thread, in order, or never.

Dispatching appends to a queue, if anybody listens, and knows no more of it. One thread takes from
the queue. Whoever is told may block, raise or exit: that costs what waits behind it, and beyond
``MOST_WAITING`` what would wait is dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from celery_safe_leader._core.events import Demoted, Elected
from celery_safe_leader._dispatch.health.run_counts import RunCounts
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._loggers import beat_logger as logger

__all__ = [
    "MOST_WAITING",
    "LeaderEnded",
    "LeaderStarted",
    "RunEvents",
    "RunsMissed",
    "RunsPublished",
]

MOST_WAITING = 10_000
"""Runs that wait to be told."""
_COMPLAIN_EVERY = 60.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class LeaderStarted:
    """This process leads from now on."""

    token: int


@dataclass(frozen=True, slots=True)
class LeaderEnded:
    """It leads no more."""

    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunsPublished:
    """The broker has the messages of these runs."""

    token: int
    claims: tuple[Claim, ...]
    way: str
    """``transactional``, ``write-ahead``, or empty for a scheduler under the mixin."""


@dataclass(frozen=True, slots=True)
class RunsMissed:
    """Runs that nobody will publish."""

    token: int
    entry: str
    count: int
    reason: str
    """``too-late``, ``expired``, ``given-up`` or ``unknown``."""


RunEvent = LeaderStarted | LeaderEnded | RunsPublished | RunsMissed


class RunEvents:
    """A bounded queue of events, and the thread that tells them. Thread-safe.

    Args:
        tell: Called with each event; may block, and may raise anything, which is logged.
        listens: Whether anybody wants events of a kind; called often, so it has to be quick.
    """

    def __init__(
        self,
        tell: Callable[[RunEvent], None] = lambda event: None,
        listens: Callable[[type], bool] = lambda kind: False,
    ) -> None:
        self._tell = tell
        self._listens = listens
        self._lock = threading.Lock()
        self._queue: SimpleQueue[RunEvent | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._announced = self._ended = 0
        self._complain_at = 0.0
        self.counts = RunCounts()
        """Whether anybody listens or not."""
        self.announces = False
        """Whether elections are told here: then none of its runs is told before a tenure is."""
        self.dropped = 0
        """Runs that were not told, since too many waited."""

    # What others append

    def elected(self, event: Elected | Demoted) -> None:
        """Note that this process was elected or demoted."""
        if not self._listens(type(event)):
            return
        if isinstance(event, Elected):
            self._put(LeaderStarted(event.fencing_token), 0)
        else:
            self._put(LeaderEnded(event.fencing_token, event.reason.value), 0)

    def published(self, claims: Sequence[Claim], token: int, way: str) -> None:
        """Note that the broker has the messages of runs."""
        if claims and self._listens(RunsPublished):
            self._put(RunsPublished(token, tuple(claims), way), len(claims))

    def missed(self, entry: str, token: int, count: int, reason: str) -> None:
        """Note that runs of an entry will never be published."""
        self.counts.missed[reason] += count
        if self._listens(RunsMissed):
            self._put(RunsMissed(token, entry, count, reason), 1)

    @property
    def wants_published(self) -> bool:
        """Whether anybody wants to know what is published."""
        return self._listens(RunsPublished)

    def close(self, timeout: float) -> None:
        """Wait until all is told, for so many seconds at most."""
        thread = self._thread
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout)

    def _put(self, event: RunEvent, weight: int) -> None:
        with self._lock:
            if weight and self._waiting + weight > MOST_WAITING:
                self.dropped += weight
                is_dropped, thread = True, None
            else:
                self._waiting += weight
                self._queue.put(event)
                is_dropped, thread = False, self._make_thread()
        if thread is not None:
            try:
                thread.start()
            except RuntimeError:  # there can be no more threads
                with self._lock:
                    self._thread = None
        if is_dropped:
            self._complain()

    def _make_thread(self) -> threading.Thread | None:
        if self._thread is not None:
            return None
        self._thread = threading.Thread(target=self._run, name="leader:signals", daemon=True)
        return self._thread

    def _complain(self) -> None:
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            logger.warning(
                "Receivers of run_published or run_missed do not keep up: %d runs were not told "
                "to them so far. Nothing else waits for them",
                self.dropped,
            )

    # On the thread that tells

    def _run(self) -> None:
        while True:
            event = self._queue.get()
            if event is None:
                with self._lock:
                    self._thread = None
                    if self._queue.empty():
                        return
                    self._thread = threading.current_thread()
                continue
            try:
                self._tell_in_order(event)
            except BaseException:
                # SystemExit as well: it ends nothing here but would end all telling.
                logger.exception("Telling %s failed", type(event).__name__)
            with self._lock:
                self._waiting -= _weight(event)

    def _tell_in_order(self, event: RunEvent) -> None:
        if isinstance(event, LeaderStarted):
            self._announce(event.token)
            return
        if isinstance(event, LeaderEnded):
            self._announce(event.token)
        elif self.announces and self._listens(Elected):
            # An election and its first run come from two threads.
            self._announce(event.token)
        self._tell(event)

    def _announce(self, token: int) -> None:
        if token > self._announced:
            self._announced = token
            self._tell(LeaderStarted(token))


def _weight(event: RunEvent) -> int:
    if isinstance(event, RunsPublished):
        return len(event.claims)
    return 1 if isinstance(event, RunsMissed) else 0
