"""Leadership as a task sees it: read from the board of its worker, without any call to Redis."""

from __future__ import annotations

import math
import os
import time
import weakref
from contextvars import ContextVar
from typing import Any, Protocol

from celery_safe_leader import conf
from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._runtime.embedded.board import BoardReader, variable
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader._worker.leader_only.queue import declaration
from celery_safe_leader.errors import LeadershipLostError

__all__ = [
    "CURRENT",
    "LEADERSHIP",
    "WHY_EXPIRED",
    "WHY_RESIGNED",
    "Granted",
    "Leadership",
    "LeadershipReader",
    "Lost",
    "lone_lease",
    "reader_of",
]

WHY_EXPIRED = "the lease expired: no renewal was confirmed in time"
WHY_RESIGNED = "the worker resigned"
WHY_FOREIGN = "this process was started by a task, and a worker leads for its own processes alone"
"""Why a leadership is over, as ``LeadershipLostError`` says it."""

_CLOCK = SystemClock()
_POLL = 0.005
"""Seconds between two checks while a task waits for the end of its leadership."""
_readers: weakref.WeakKeyDictionary[Any, LeadershipReader] = weakref.WeakKeyDictionary()


class Granted(Protocol):
    """A leadership that a test decides on: see ``celery_safe_leader.testing``."""

    def read(self) -> tuple[str, Lease] | None:
        """Return the candidate's id and the lease, if there is one."""

    def begin_run(self) -> None:
        """Note that a leader-only task begins."""


granted: Granted | None = None
"""Seen in place of a worker's, by all apps of this process."""


class LeadershipReader:
    """Reads from the board whether this process's worker leads, for one app. Thread-safe."""

    def __init__(self, app: Any) -> None:
        """Read the names from the settings; the board is opened by ``read()``."""
        self.key, self.queue = conf.leader_names(app)
        self.election = ElectionKeys(self.key, WORKER).election
        self._variable = variable(self.key)
        self._reader: BoardReader | None = None
        self._last: Lease | None = None
        self.lone: Lease | None = None
        """The lease of a worker that holds no election, since there can be no other worker."""
        queues = app.amqp.queues
        if self.queue not in queues:
            # A retry names the queue, and apps may refuse queues that they do not know.
            queues.add(declaration(app, self.queue))

    def read(self) -> tuple[str, Lease] | None:
        """Return the worker's candidate id and its lease if it leads now, else ``None``."""
        found = self._found()
        if found is None:
            return None
        self._last = found[1]
        return found if _CLOCK.before(found[1].deadline) else None

    def _found(self) -> tuple[str, Lease] | None:
        if granted is not None:
            return granted.read()
        if self.lone is not None:
            return f"alone:{os.getpid()}:0", self.lone
        reader = self._reader
        found = None if reader is None else reader.read()
        if found is None and (
            reader is None or reader.closed or reader.path != os.environ.get(self._variable)
        ):
            # Not opened yet, or of a worker that has ended in this process.
            reader = self._reader = self._open()
            found = None if reader is None else reader.read()
        return found

    def remaining(self, token: int) -> float:
        """Return for how many seconds the lease of a token still lasts, at least."""
        found = self.read()
        if found is None or found[1].fencing_token != token:
            return 0.0
        return found[1].remaining(_CLOCK.now())

    def why_lost(self, token: int) -> str:
        """Return why the leadership under a token is over, as the end of a sentence."""
        found, last = self.read(), self._last
        if self._reader is not None and self._reader.is_foreign:
            return WHY_FOREIGN
        if found is not None:
            return f"elected again under token {found[1].fencing_token}"
        if last is not None and last.fencing_token == token and _CLOCK.before(last.deadline):
            return WHY_RESIGNED
        return WHY_EXPIRED

    def _open(self) -> BoardReader | None:
        path = os.environ.get(self._variable)
        if path is None:
            return None
        try:
            return BoardReader(path)
        except (OSError, ValueError) as exc:
            logger.error(
                "This process cannot see whether its worker leads %s, so it runs no leader-only "
                "tasks: %s: %s",
                self.election,
                path,
                exc,
            )
            return None


class Leadership:
    """The tenure under which a leader-only task runs. Get it by ``current_leadership()``.

    Thread-safe. Nothing here calls Redis.
    """

    def __init__(self, place: LeadershipReader, candidate_id: str, token: int) -> None:
        """Use ``current_leadership()`` instead."""
        self._reader = place
        self.candidate_id = candidate_id
        """Id of the worker that leads."""
        self.token = token
        """The fencing token: give it along with whatever the task writes."""
        self.lost = Lost(self)
        """Set when this leadership is over, for good."""

    @property
    def election(self) -> str:
        """Name of the election."""
        return self._reader.election

    def remaining(self) -> float:
        """Return for how many seconds the lease still lasts, at least; 0 when it is over."""
        return self._reader.remaining(self.token)

    def check(self) -> None:
        """Check that the leadership under which the task began still lasts.

        Raises:
            LeadershipLostError: It has ended, even if the worker has been elected again.
        """
        if self.remaining() <= 0:
            raise self.loss()

    def loss(self) -> LeadershipLostError:
        """Return the error that says that this leadership is over, and why."""
        return LeadershipLostError(self.election, self.token, self._reader.why_lost(self.token))

    def __repr__(self) -> str:
        """Show election and token."""
        return f"<Leadership {self.election!r} token {self.token}>"


class Lost:
    """Set when a leadership is over; ``is_set`` and ``wait`` as those of ``threading.Event``."""

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def is_set(self) -> bool:
        """Return whether the leadership is over."""
        return self._leadership.remaining() <= 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the leadership is over.

        Args:
            timeout: Seconds; ``None`` waits without limit.

        Returns:
            Whether it is over.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self.is_set():
            left = _POLL if end is None else end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _POLL))
        return True


LEADERSHIP = "safe_leader_leadership"
"""Attribute of a request: the leadership under which its task ran."""
CURRENT: ContextVar[Leadership | None] = ContextVar("leadership", default=None)
"""The leadership of the leader-only task that runs in this context."""


def lone_lease() -> Lease:
    """Return a lease that never ends, for a worker that holds no election."""
    now, never = _CLOCK.now(), math.inf
    return Lease(int(1000 * now.wall), Instant(never, never, never), now)


def reader_of(app: Any) -> LeadershipReader:
    """Return the reader of this process for an app."""
    reader = _readers.get(app)
    if reader is None:
        reader = _readers[app] = LeadershipReader(app)
    return reader
