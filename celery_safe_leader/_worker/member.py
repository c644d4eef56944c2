"""A worker as a candidate, and its board: what the children see never outlives what is true."""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery_safe_leader._clients import make_candidate
from celery_safe_leader._core.events import Event, Lease
from celery_safe_leader._runtime.board import Board
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader.conf import LeaderSettings

__all__ = ["Member"]

BROKER = "broker"
"""Why a worker takes no part: it cannot reach the broker, or not yet."""
_GLANCE = 0.1
"""Seconds between two looks at whether the process ends."""


class Member:
    """Takes part for one worker. Thread-safe.

    Whoever resigns takes the board down first: a successor may be elected as soon as Redis has
    the resignation, and by then no child may believe any longer.
    """

    def __init__(self, settings: LeaderSettings, ends: Callable[[], bool]) -> None:
        """Make the board, so that children inherit it. Starts nothing, and sends nothing.

        Args:
            settings: Of the app.
            ends: Whether this process is ending at once, asked often: Celery waits for the pool
                inside of its signal handler before it tells anybody.
        """
        self._ends = ends
        self.keys = ElectionKeys(settings.key, WORKER, settings.prefix)
        self.leader = make_candidate(settings, self.keys)
        self.tell: Callable[[Event], None] = lambda event: None
        """Told every event, once the board shows what it means."""
        self._board = Board(settings.key, self.leader.candidate_id)
        self.board_path = self._board.path
        """Where the children of this worker see who leads."""
        self._lock = threading.Lock()
        self._away: set[str] = set()
        self._shown: Lease | None = None
        self._down = True
        self._closed = False
        self._thread: threading.Thread | None = None

    def elect(self, reason: str = BROKER) -> None:
        """Take part, if it does not yet, and unless there is another reason to stay away.

        Args:
            reason: Why it took no part, which is over.
        """
        with self._lock:
            self._away.discard(reason)
            if self._away or self._closed or self.leader.active:
                return
            self._down = False
            self.leader.observe(self._observe)
            self.leader.elect()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._mirror, name=f"leader:{self.leader.key}:board", daemon=True
                )
                self._thread.start()

    def resign(self, reason: str = BROKER) -> None:
        """Take part no longer, and hand leadership over, until ``elect()`` with this reason."""
        with self._lock:
            self._away.add(reason)
        self._take_down()
        self.leader.stop()

    def close(self) -> None:
        """Resign for good. May be called again."""
        self._take_down()
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self.leader.shutdown()
            with self._lock:
                self._board.close()

    def _take_down(self) -> None:
        with self._lock:
            self._down = True
            if not self._closed:
                self._board.write(None)
                self._shown = None

    def _observe(self, event: Event) -> None:
        self._show()
        self.tell(event)

    def _show(self) -> None:
        with self._lock:
            lease = self.leader.lease
            if not self._down and not self._closed and lease is not self._shown:
                self._board.write(lease)
                self._shown = lease

    def _mirror(self) -> None:
        # Every renewal moves the deadline. Late, the children only see an earlier one.
        while not self._closed:
            self.leader.wait(
                lambda: self._closed or (not self._down and self.leader.lease is not self._shown),
                _GLANCE,
            )
            self._show()
            if self._ends():
                self.close()
