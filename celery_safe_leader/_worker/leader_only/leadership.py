"""Leadership as a task sees it: read from the board of its worker, without any call to Redis."""

from __future__ import annotations

import os
import time
import weakref
from contextvars import ContextVar
from typing import Any

from celery_safe_leader import conf
from celery_safe_leader._core.events import Lease
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.board import BoardReader, variable
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader._worker.leader_only.queue import declaration
from celery_safe_leader.errors import LeadershipLostError

__all__ = ["CURRENT", "Leadership", "Lost", "Place", "place_of"]

_CLOCK = SystemClock()
_GLANCE = 0.005
"""Seconds between two looks of who waits for the end of a leadership."""
_places: weakref.WeakKeyDictionary[Any, Place] = weakref.WeakKeyDictionary()


class Place:
    """What one process knows of its worker's leadership, for one app. Thread-safe."""

    def __init__(self, app: Any) -> None:
        """Read the names; the board is looked for when it is asked for."""
        self.key, self.queue = conf.leader_names(app)
        self.election = ElectionKeys(self.key, WORKER).election
        self._variable = variable(self.key)
        self._reader: BoardReader | None = None
        self._last: Lease | None = None
        queues = app.amqp.queues
        if self.queue not in queues:
            # A retry names it, and apps may refuse queues that they do not know.
            queues.add(declaration(app, self.queue))

    def read(self) -> tuple[str, Lease] | None:
        """Return who leads, and the lease, if it is this worker and now."""
        reader = self._reader
        found = None if reader is None else reader.read()
        if found is None and (reader is None or reader.path != os.environ.get(self._variable)):
            # Not looked for yet, or of a worker that has ended in this process.
            reader = self._reader = self._open()
            found = None if reader is None else reader.read()
        if found is None:
            return None
        self._last = found[1]
        return found if _CLOCK.before(found[1].deadline) else None

    def remaining(self, token: int) -> float:
        """Return the seconds that the lease of a token lasts at least."""
        found = self.read()
        if found is None or found[1].fencing_token != token:
            return 0.0
        return found[1].remaining(_CLOCK.now())

    def why_lost(self, token: int) -> str:
        """Return why leadership under a token is over, for people."""
        found, last = self.read(), self._last
        if found is not None:
            return f"elected again under token {found[1].fencing_token}"
        if last is not None and last.fencing_token == token and _CLOCK.before(last.deadline):
            return "the worker gave it up"
        return "the lease is over: no renewal was confirmed in time"

    def _open(self) -> BoardReader | None:
        path = os.environ.get(self._variable)
        if path is None:
            return None
        try:
            return BoardReader(path)
        except (OSError, ValueError) as exc:
            logger.error(
                "This process cannot see whether its worker leads %s, and runs no leader-only "
                "task: %s: %s",
                self.election,
                path,
                exc,
            )
            return None


class Leadership:
    """The tenure under which a leader-only task runs. Get it by ``current_leadership()``.

    Thread-safe. Nothing here calls Redis.
    """

    def __init__(self, place: Place, candidate_id: str, token: int) -> None:
        """Wrap a tenure; use ``current_leadership()``."""
        self._place = place
        self.candidate_id = candidate_id
        """Id of the worker that leads."""
        self.token = token
        """The fencing token: give it along with whatever the task writes."""
        self.lost = Lost(self)
        """Set when this leadership is over, for good."""

    @property
    def election(self) -> str:
        """Name of the election."""
        return self._place.election

    def remaining(self) -> float:
        """Return the seconds that the lease lasts at least, unless renewed; 0 when it is over."""
        return self._place.remaining(self.token)

    def check(self) -> None:
        """Go on only while the leadership lasts under which the task began.

        Raises:
            LeadershipLostError: It has ended, even if the worker was elected again since.
        """
        if self.remaining() <= 0:
            raise self.loss()

    def loss(self) -> LeadershipLostError:
        """Return the error which says that this leadership is over, and why."""
        return LeadershipLostError(self.election, self.token, self._place.why_lost(self.token))

    def __repr__(self) -> str:
        """Show election and token."""
        return f"<Leadership {self.election!r} token {self.token}>"


class Lost:
    """Set when a leadership is over; to be asked and waited for like a ``threading.Event``."""

    def __init__(self, leadership: Leadership) -> None:
        """Watch a leadership."""
        self._leadership = leadership

    def is_set(self) -> bool:
        """Tell whether the leadership is over."""
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
            left = _GLANCE if end is None else end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _GLANCE))
        return True


CURRENT: ContextVar[Leadership | None] = ContextVar("leadership", default=None)
"""Of the leader-only task that runs here."""


def place_of(app: Any) -> Place:
    """Return what this process knows, for an app."""
    place = _places.get(app)
    if place is None:
        place = _places[app] = Place(app)
    return place
