"""A worker as a candidate, and its board, on which pool processes see whether the worker leads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._clients import make_candidate, make_channel
from celery_safe_leader._core.events import Event, Lease
from celery_safe_leader._core.leader_request import ResignRequest
from celery_safe_leader._core.messages import Part
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.embedded.board import Board
from celery_safe_leader._runtime.ending import Ending
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
        self.on_change: Callable[[], None] = lambda: None
        """Called when this worker begins or ceases to lead, whatever becomes of the events."""
        self._channel = make_channel(settings, self.keys, (Part.REQUESTS,), self.leader)
        self._channel.on_resign_request(self._resign_as_asked)
        self._yields_until: float | None = None
        self._board = _make_board(settings.key, self.leader.candidate_id)
        self.board_path = self._board.path
        """Path of the board, for the children of this worker."""
        self._lock = threading.Lock()
        self._away: set[str] = set()
        self._shown: Lease | None = None
        self._noticed: int | None = None
        self._board_cleared = True
        self._closed = False
        self._ending = Ending(f"leader:{self.leader.key}:close")
        self._thread: threading.Thread | None = None

    def elect(self, reason: str = BROKER) -> None:
        """Take part, unless another reason to stay away remains.

        Args:
            reason: The reason to stay away that no longer holds.
        """
        with self._lock:
            self._away.discard(reason)
        self._elect_unless_away()

    def _elect_unless_away(self) -> None:
        with self._lock:
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
        # Somebody may have taken the reason back while this was under way, and left it at that
        # since the worker took part.
        self._elect_unless_away()

    def stand_down(self, why: str) -> None:
        """Hand leadership over, and take part again behind the others. Blocks as ``resign()``.

        Args:
            why: For the history: a word.
        """
        self._clear_board()
        self.leader.stand_down(why)
        self._elect_unless_away()

    def _resign_as_asked(self, request: ResignRequest) -> None:
        logger.warning(
            "This worker was asked to hand leadership over (%s, token %d)",
            request.reason,
            request.token,
        )
        self._clear_board()
        self._yields_until = time.monotonic() + 2 * self.leader.courtesy
        self.leader.hand_over(request.reason, request.successor)
        self._elect_unless_away()

    def campaign_in_time(self) -> None:
        """No longer let the others go first."""
        self.leader.campaign_in_time()

    def close(self) -> None:
        """Resign for good. May be called again: every call returns at the end of the first one."""
        self._clear_board()
        self._ending.run(self._end)

    def _end(self) -> None:
        with self._lock:
            self._closed = True
        self._channel.close()
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
            self.leader.wait(self._is_news, _POLL)
            self._show()
            if self.leader.fencing_token != self._noticed:
                self._noticed = self.leader.fencing_token
                self.on_change()
            self._channel.follow()
            if self._yields_until is not None and time.monotonic() >= self._yields_until:
                self._yields_until = None
                self.leader.campaign_in_time()
            if self._is_ending():
                self.close()

    def _is_news(self) -> bool:
        if self._closed or self.leader.fencing_token != self._noticed:
            return True
        return not self._board_cleared and self.leader.lease is not self._shown


def _make_board(key: str, candidate_id: str) -> Board:
    try:
        return Board(key, candidate_id)
    except OSError as exc:
        raise ImproperlyConfigured(
            f"the worker cannot make the small file in which its pool processes see whether it "
            f"leads: {exc}. Set TMPDIR to a folder that this user may write to and that is not full"
        ) from exc
