"""The beat of ``celery worker -B``, in its own process: it leads while its worker leads.

There is no second election: the beat reads the board of its worker, as pool processes do.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import celery.app.base
from billiard import get_start_method

from celery_safe_leader._beat.embedded.parent_watch import parent_pid
from celery_safe_leader._clients import make_channel
from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.messages import Part
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._runtime.embedded.board import BoardReader, maker, variable
from celery_safe_leader._runtime.embedded.pulse import Pulse
from celery_safe_leader._runtime.service.metrics import Source
from celery_safe_leader._runtime.service.relayed_metrics import pack_families
from celery_safe_leader._store.keys import WORKER, ElectionKeys
from celery_safe_leader.conf import LeaderSettings

__all__ = ["Following", "follow_worker", "set_up_spawned_process"]

_POLL = 0.02
"""Seconds between two reads of the board while this beat waits."""
_PULSE = 0.1
"""Seconds between two beats of the pulse."""
_COUNT_EACH = 0.5
"""Seconds between two writes of the metrics."""
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
    look = None
    """The worker renews the lease, and its renewals do not look at the ledger."""

    def __init__(self, settings: LeaderSettings, board: str) -> None:
        """Open the board and start the pulse.

        Args:
            settings: Of the app.
            board: Path of the file.

        Raises:
            OSError: It cannot be read and written.
            ValueError: It is not the board of a worker that keeps a beat.
        """
        keys = ElectionKeys(settings.key, WORKER, settings.prefix)
        self.election = keys.election
        """Name of the worker's election."""
        self._rest = max(settings.ttl, _SHORTEST_REST)
        self._rests_until = 0.0
        self._gave_up: int | None = None  # under the token
        self._clock = SystemClock()
        self._reader = BoardReader(board)
        self._pulse = Pulse(board)
        self._logged_token: int | None = None
        self._left = False
        self.candidate_id = ""
        """Of the worker, once it has led."""
        self.patience = self._pulse.patience
        """Seconds for which to try, if the beat before this one could not do its work; else 0."""
        self._work: Callable[[], Mapping[str, Any]] | None = None
        self._say_each, self._say_at = settings.ttl, 0.0
        self._metrics: Source | None = None
        self._count_at = 0.0
        self._counting = threading.Lock()
        # Requests to the leader are the worker's.
        self.channel = make_channel(settings, keys, (Part.CHANGES,), self)
        """What is sent to the leading beat."""
        threading.Thread(target=self._keep_beating, name="leader:pulse", daemon=True).start()
        logger.info(
            "This embedded beat (pid %d) follows its worker in the election %s",
            os.getpid(),
            self.election,
        )

    def join(self) -> Following:
        """Log whether the worker was elected or demoted since the last call; return this object."""
        token = self.fencing_token
        if token != self._logged_token:
            if token is None:
                logger.info(
                    "The worker no longer leads %s: its embedded beat stands by", self.election
                )
            else:
                logger.info(
                    "The worker leads %s: its embedded beat dispatches now (token %d)",
                    self.election,
                    token,
                )
            self._logged_token = token
        self.channel.follow()
        return self

    def rest(self) -> float:
        """Ask the worker to hand leadership over and not to lead for a while.

        Returns:
            Seconds until this beat may lead again. A call during the rest restarts it.
        """
        self._rests_until = time.monotonic() + self._rest
        self.channel.stop()
        self._pulse.wish_to_rest(self._rest)
        return self._rest

    must_resign = False
    """The worker is asked, not its beat."""

    def resign_as_asked(self) -> None:
        """Do nothing: nobody asks."""

    def stand_down(self, why: str, patience: float = 0.0) -> None:
        """Dispatch nothing more in this tenure of the worker, and say so to it.

        It starts another beat in place of this one, or hands leadership over.

        Args:
            why: For the election's history: a word.
            patience: Seconds for which the next beat is to try.
        """
        self._gave_up = self.fencing_token or self._gave_up
        self.channel.stop()
        self._pulse.stand_down(why, patience)

    def is_able(self) -> None:
        """Say to the worker that this beat can do its work."""
        self._pulse.succeed()

    def leave(self) -> None:
        """Stop leading for good. May be called twice."""
        self._left = True
        self.channel.close()
        self._count()

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
    def remaining(self) -> float:
        """Seconds that the worker's lease lasts at least, unless renewed: without IO."""
        lease = self._lease()
        return 0.0 if lease is None else lease.remaining(self._clock.now())

    @property
    def is_leader(self) -> bool:
        """Whether the worker leads now: without IO."""
        return self._lease() is not None

    @property
    def info(self) -> str:
        """A line like those of beat's banner."""
        role = "leader" if self.is_leader else "standby"
        return f"    . election -> {self.election} ({role}, with its worker)"

    def _lease(self) -> Lease | None:
        found = self._reader.read()
        if found is None or self._left or time.monotonic() < self._rests_until:
            return None
        if found[1].fencing_token == self._gave_up or not self._clock.before(found[1].deadline):
            return None
        self.candidate_id = found[0]
        return found[1]

    def describe(self, work: Callable[[], Mapping[str, Any]]) -> None:
        """Let `leader status` show what this beat does: its worker says it with its own renewals.

        Args:
            work: Returns what its tenure did and what comes next, in JSON's types; from any thread.
        """
        self._work = work

    def relay(self, metrics: Source) -> None:
        """Let the worker's page show this beat's metrics.

        Args:
            metrics: Returns them; from any thread.
        """
        self._metrics = metrics

    def _keep_beating(self) -> None:
        while True:
            self._pulse.beat()
            self._say()
            if time.monotonic() >= self._count_at:
                self._count()
            time.sleep(_PULSE)

    def _count(self) -> None:
        if self._metrics is None:
            return
        try:
            # One at a time: the last thing that is written is the last that was counted.
            with self._counting:
                self._count_at = time.monotonic() + _COUNT_EACH
                self._pulse.count(pack_families(self._metrics()))
        except Exception:
            logger.debug("this beat's metrics cannot be passed on", exc_info=True)

    def _say(self) -> None:
        if self._work is None or time.monotonic() < self._say_at:
            return
        self._say_at = time.monotonic() + self._say_each
        try:
            work = self._work() if self.is_leader else {}
            self._pulse.say(json.dumps(work, separators=(",", ":")).encode())
        except Exception:
            # The signs of life go on, whatever cannot be shown.
            logger.debug("what this beat did cannot be shown", exc_info=True)


def follow_worker(settings: LeaderSettings) -> Following | None:
    """Return what follows the worker of this embedded beat, if it takes part in an election.

    Returns:
        ``None`` if ``install(app)`` was not called for the worker: then there is none to follow.
        Also for the board of another worker that the environment names, such as one whose task
        started this one by a command.

    Raises:
        OSError: The worker takes part, and this process cannot read its board.
        ValueError: The same.
    """
    board = os.environ.get(variable(settings.key))
    if board is None or maker(board) not in (None, os.getpid(), parent_pid()):
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
