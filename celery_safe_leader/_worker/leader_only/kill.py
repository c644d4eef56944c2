"""Ends tasks that outlive their leadership, from the worker's main process: ``revoke_on_loss``.

The process that runs such a task interrupts it by itself: see ``revoke``. A task that swallows the
error, or that is in a call which no signal interrupts, is ended here together with its process of
the pool, by a signal that is deadly only while such a task runs.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state

from celery_safe_leader._core.events import Demoted, DemotionReason
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.interrupt import HARD, hand_back
from celery_safe_leader._worker.leader_only.mark import mark_of
from celery_safe_leader.errors import LeadershipLostError
from celery_safe_leader.leader import SafeLeader

__all__ = ["GRACE", "KillOnLoss"]

GRACE = 3.0
"""Seconds from the loss of leadership until a task that still runs is ended with its process."""
_REASONS = {
    DemotionReason.EXPIRED: "the lease is over: no renewal was confirmed in time",
    DemotionReason.RESIGNED: "the worker gave it up",
    DemotionReason.SHUTDOWN: "the worker gave it up",
    DemotionReason.SUPERSEDED: "another candidate holds the record",
    DemotionReason.RECORD_LOST: "the record in Redis was lost",
}
_KINDS: dict[Any, Any] = {}
"""Class of requests -> the same, revocable."""


class KillOnLoss:
    """Watches over the revocable tasks of one worker."""

    def __init__(self, consumer: Any, leader: SafeLeader | None) -> None:
        """Let the requests of revocable tasks be such as can be ended.

        Args:
            consumer: The worker's ``Consumer``.
            leader: Its candidate, if it has one.
        """
        self._pool = consumer.pool
        self._election = "" if leader is None else leader.key
        self._tasks = sorted(
            name for name, task in consumer.app.tasks.items() if _is_revocable(task)
        )
        for name in self._tasks:
            task = consumer.app.tasks[name]
            task.Request = _revocable(symbol_by_name(task.Request))
        if leader is not None and self._tasks and self._kind() == "prefork":
            leader.on("demoted", self._demoted)

    def greet(self) -> None:
        """Say once what this pool cannot do."""
        if self._tasks and self._kind() not in ("prefork", "solo"):
            logger.warning(
                "The pool %s cannot interrupt a task: revoke_on_loss does not end %s",
                self._kind(),
                ", ".join(self._tasks),
            )

    def _demoted(self, event: Demoted) -> None:
        error = LeadershipLostError(self._election, event.fencing_token, _REASONS[event.reason])
        timer = threading.Timer(GRACE, self._end, (error, time.monotonic()))
        timer.name, timer.daemon = "leader:endings", True
        timer.start()

    def _kind(self) -> str:
        return str(type(self._pool).__module__).rpartition(".")[2]

    def _end(self, error: LeadershipLostError, lost_at: float) -> None:
        for request in list(state.active_requests):
            # What was begun later runs under another tenure, or under none.
            begun_at = getattr(request, "accepted_at", None)
            if begun_at is None or begun_at >= lost_at or request.worker_pid == os.getpid():
                continue
            request.leadership_lost = error
            logger.warning(
                "%s (%s) still runs %g s after its leadership was lost: its process (%d) is ended",
                request.name,
                request.id,
                GRACE,
                request.worker_pid,
            )
            try:
                os.kill(request.worker_pid, HARD)
            except ProcessLookupError:
                continue


def _is_revocable(task: Any) -> bool:
    rules = mark_of(task)
    return rules is not None and rules.revoke_on_loss


def _revocable(base: Any) -> Any:
    """Make a class of requests of an app's own one, as Celery's documentation shows."""
    if base in _KINDS or base in _KINDS.values():
        return _KINDS.get(base, base)

    class RevocableRequest(base):
        """A request that knows when it began, and whether its leadership was lost since."""

        accepted_at: float | None = None
        leadership_lost: LeadershipLostError | None = None

        def on_accepted(self, pid: int, time_accepted: float) -> None:
            self.accepted_at = time_accepted
            super().on_accepted(pid, time_accepted)

        def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> Any:
            error, found = self.leadership_lost, exc_info.exception
            found = getattr(found, "exc", found)  # as billiard wraps it
            if error is None or not isinstance(found, WorkerLostError):
                return super().on_failure(exc_info, *args, **kwargs)
            if hand_back(self.task, mark_of(self.task)):
                state.task_ready(self)
                if not self.ignore_result:
                    self.task.backend.mark_as_retry(self.id, error, request=self._context)
                self.reject(requeue=True)
                return None
            try:
                raise error
            except LeadershipLostError:
                return super().on_failure(ExceptionInfo(), *args, **kwargs)

    _KINDS[base] = RevocableRequest
    return RevocableRequest
