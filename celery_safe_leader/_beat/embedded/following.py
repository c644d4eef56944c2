"""The beat of ``celery worker -B``, in its own process: it leads while its worker leads.

There is no second election: the beat reads the board of its worker, as pool processes do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import celery.app.base
from billiard import get_start_method

from celery_safe_leader._core.events import Lease
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.board import BoardReader, variable
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._runtime.pulse import Pulse
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader.conf import LeaderSettings

__all__ = ["Following", "follow_worker", "set_up_spawned_process"]

_POLL = 0.02
"""Seconds between two reads of the board while this beat waits."""
_PULSE = 0.1
"""Seconds between two beats of the pulse."""
_SHORTEST_REST = 5.0
"""Seconds."""


class Following:
    """An embedded beat's part in the election of its worker.

    Takes the place of the candidate and the membership of a beat that runs alone. It reads the
    board each time it is asked, so it never believes longer than its worker that it leads. For one
    thread and its signal handlers; the properties may be read on any thread.
    """

    role = WORKER
    """Which of the key's elections the worker takes part in."""

    def __init__(self, settings: LeaderSettings, board: str) -> None:
        """Open the board and start the pulse.

        Args:
            settings: Of the app.
            board: Path of the file.

        Raises:
            OSError: It cannot be read and written.
            ValueError: It is not the board of a worker that keeps a beat.
        """
        self._election = ElectionKeys(settings.key, WORKER).election
        self._rest = max(settings.ttl, _SHORTEST_REST)
        self._rests_until = 0.0
        self._clock = SystemClock()
        self._reader = BoardReader(board)
        self._pulse = Pulse(board)
        self._logged_token: int | None = None
        self._left = False
        self.candidate_id = ""
        """Of the worker, once it has led."""
        threading.Thread(target=self._keep_beating, name="leader:pulse", daemon=True).start()
        logger.info(
            "This embedded beat (pid %d) follows its worker in the election %s",
            os.getpid(),
            self._election,
        )

    def join(self) -> Following:
        """Log whether the worker was elected or demoted since the last call; return this object."""
        token = self.fencing_token
        if token != self._logged_token:
            if token is None:
                logger.info(
                    "The worker no longer leads %s: its embedded beat stands by", self._election
                )
            else:
                logger.info(
                    "The worker leads %s: its embedded beat dispatches now (token %d)",
                    self._election,
                    token,
                )
            self._logged_token = token
        return self

    def rest(self) -> float:
        """Ask the worker to hand leadership over and not to lead for a while.

        Returns:
            Seconds until this beat may lead again. A call during the rest restarts it.
        """
        self._rests_until = time.monotonic() + self._rest
        self._pulse.wish_to_rest(self._rest)
        return self._rest

    def leave(self) -> None:
        """Stop leading for good. May be called twice."""
        self._left = True

    def wait(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait until ``ready()`` or for ``timeout`` seconds; return whether it is ready."""
        end = time.monotonic() + timeout
        while not ready():
            left = end - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(left, _POLL))
        return True

    @property
    def fencing_token(self) -> int | None:
        """Token of the worker's present tenure, ``None`` if it does not lead: without IO."""
        lease = self._lease()
        return None if lease is None else lease.fencing_token

    @property
    def is_leader(self) -> bool:
        """Whether the worker leads now: without IO."""
        return self._lease() is not None

    @property
    def info(self) -> str:
        """A line like those of beat's banner."""
        role = "leader" if self.is_leader else "standby"
        return f"    . election -> {self._election} ({role}, with its worker)"

    def _lease(self) -> Lease | None:
        found = self._reader.read()
        if found is None or self._left or time.monotonic() < self._rests_until:
            return None
        if not self._clock.before(found[1].deadline):
            return None
        self.candidate_id = found[0]
        return found[1]

    def _keep_beating(self) -> None:
        while True:
            self._pulse.beat()
            time.sleep(_PULSE)


def follow_worker(settings: LeaderSettings) -> Following | None:
    """Return what follows the worker of this embedded beat, if it takes part in an election.

    Returns:
        ``None`` if ``install(app)`` was not called for the worker: then there is none to follow.

    Raises:
        OSError: The worker takes part, and this process cannot read its board.
        ValueError: The same.
    """
    board = os.environ.get(variable(settings.key))
    if board is None:
        return None
    following = Following(settings, board)
    if threading.current_thread() is threading.main_thread():
        # At a terminal, Ctrl-C reaches both. The worker decides when its beat ends.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return following


def set_up_spawned_process(app: Any) -> None:
    """Do for an embedded beat in a new interpreter what Celery does for pool processes only.

    Otherwise it would know no task, so that entries are sent by name without their tasks' options,
    and its log would have no handler. (As ``process_initializer`` of celery/concurrency/prefork.py,
    read in 5.4.0, 5.5.3, 5.6.0 and 5.7.0.)
    """
    if get_start_method() == "fork":
        return
    # Tasks then belong to this app, and not to the one that their module makes anew.
    os.environ["FORKED_BY_MULTIPROCESSING"] = "1"
    celery.app.base.USING_EXECV = True
    app.loader.import_default_modules()
    app.set_default()
    app.set_current()
    app.log.setup(
        int(os.environ.get("CELERY_LOG_LEVEL") or 0),
        os.environ.get("CELERY_LOG_FILE") or None,
        bool(os.environ.get("CELERY_LOG_REDIRECT")),
        os.environ.get("CELERY_LOG_REDIRECT_LEVEL"),
    )
