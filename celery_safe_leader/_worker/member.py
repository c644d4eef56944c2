"""A worker as a candidate, and its board, on which pool processes see whether the worker leads."""

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
"""Reason to take no part: the worker cannot reach the broker, or not yet."""
_POLL = 0.1
"""Seconds between two checks of whether the process is ending."""


class Member:
    """One worker's part in the election of workers. Thread-safe.

    The board is cleared before a resignation is sent: a successor may be elected as soon as Redis
    has it, and by then no pool process may believe that this worker leads.
    """

    def __init__(self, settings: LeaderSettings, is_ending: Callable[[], bool]) -> None:
        """Create the board, so that children inherit it. Starts nothing and sends nothing.

        Args:
            settings: Of the app.
            is_ending: Tells whether this process ends at once; called often, because Celery waits
                for the pool inside its signal handler before it tells anybody.
        """
        self._is_ending = is_ending
        self.keys = ElectionKeys(settings.key, WORKER, settings.prefix)
        self.leader = make_candidate(settings, self.keys)
        self.on_event: Callable[[Event], None] = lambda event: None
        """Called with every event, after the board has been updated."""
        self._board = Board(settings.key, self.leader.candidate_id)
        self.board_path = self._board.path
        """Path of the board, for the children of this worker."""
        self._lock = threading.Lock()
        self._away: set[str] = set()
        self._shown: Lease | None = None
        self._board_cleared = True
        self._closed = False
        self._thread: threading.Thread | None = None

    def elect(self, reason: str = BROKER) -> None:
        """Take part, unless another reason to stay away remains.

        Args:
            reason: The reason to stay away that no longer holds.
        """
        with self._lock:
            self._away.discard(reason)
            if self._away or self._closed or self.leader.active:
                return
            self._board_cleared = False
            self.leader.observe(self._observe)
            self.leader.elect()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._mirror, name=f"leader:{self.leader.key}:board", daemon=True
                )
                self._thread.start()

    def resign(self, reason: str = BROKER) -> None:
        """Hand leadership over and take no part until ``elect()`` is called with this reason."""
        with self._lock:
            self._away.add(reason)
        self._clear_board()
        self.leader.stop()

    def close(self) -> None:
        """Resign for good. May be called again."""
        self._clear_board()
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self.leader.shutdown()
            with self._lock:
                self._board.close()

    def _clear_board(self) -> None:
        with self._lock:
            self._board_cleared = True
            if not self._closed:
                self._board.write(None)
                self._shown = None

    def _observe(self, event: Event) -> None:
        self._show()
        self.on_event(event)

    def _show(self) -> None:
        with self._lock:
            lease = self.leader.lease
            if not self._board_cleared and not self._closed and lease is not self._shown:
                self._board.write(lease)
                self._shown = lease

    def _mirror(self) -> None:
        # Every renewal moves the deadline. If this is late, the children only see an earlier one.
        while not self._closed:
            self.leader.wait(
                lambda: (
                    self._closed
                    or (not self._board_cleared and self.leader.lease is not self._shown)
                ),
                _POLL,
            )
            self._show()
            if self._is_ending():
                self.close()
