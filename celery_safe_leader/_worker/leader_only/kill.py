"""Kills tasks that outlive their leadership, from the worker's main process: ``revoke_on_loss``.

The process that runs such a task interrupts it by itself: see ``interrupt.py``. A task that
swallows the error, or is in a call that no signal interrupts, is killed here together with its pool
process, by a signal that kills only while such a task runs.
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
from celery_safe_leader._worker.leader_only.interrupt import HARD, goes_back
from celery_safe_leader._worker.leader_only.leadership import WHY_EXPIRED, WHY_RESIGNED
from celery_safe_leader._worker.leader_only.mark import mark_of
from celery_safe_leader.errors import LeadershipLostError
from celery_safe_leader.leader import SafeLeader

__all__ = ["GRACE", "KillOnLoss"]

GRACE = 3.0
"""Seconds from the loss of leadership until a task that is still running is killed."""
_REASONS = {
    DemotionReason.EXPIRED: WHY_EXPIRED,
    DemotionReason.RESIGNED: WHY_RESIGNED,
    DemotionReason.SHUTDOWN: WHY_RESIGNED,
    DemotionReason.SUPERSEDED: "another candidate holds the record",
    DemotionReason.RECORD_LOST: "the record in Redis was lost",
}
_REQUEST_CLASSES: dict[Any, Any] = {}
"""Class of requests -> its revocable subclass."""


class KillOnLoss:
    """Kills the revocable tasks of one worker that run on after a demotion."""

    def __init__(self, consumer: Any, leader: SafeLeader | None) -> None:
        """Give revocable tasks a class of requests that knows how to report a loss.

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
        self._may_kill = bool(self._tasks) and bool(HARD) and self._pool_kind() == "prefork"

    def warn_if_unsupported(self) -> None:
        """Warn if this pool cannot interrupt tasks."""
        if self._tasks and not (HARD and self._pool_kind() in ("prefork", "solo")):
            logger.warning(
                "The pool %s cannot interrupt a task: revoke_on_loss does not end %s",
                self._pool_kind(),
                ", ".join(self._tasks),
            )

    def demoted(self, event: Demoted) -> None:
        """Kill what still runs after a while. Not a listener: others' might hold it up."""
        if not self._may_kill:
            return
        error = LeadershipLostError(self._election, event.fencing_token, _REASONS[event.reason])
        timer = threading.Timer(GRACE, self._kill, (error, time.monotonic()))
        timer.name, timer.daemon = "leader:kill", True
        timer.start()

    def _pool_kind(self) -> str:
        return str(type(self._pool).__module__).rpartition(".")[2]

    def _kill(self, error: LeadershipLostError, lost_at: float) -> None:
        for request in list(state.active_requests):
            # A task that began later runs under another tenure, or is not leader-only.
            begun_at = getattr(request, "accepted_at", None)
            if begun_at is None or begun_at >= lost_at or request.worker_pid == os.getpid():
                continue
            request.leadership_lost = error
            logger.warning(
                "%s (%s) is still running %g s after its leadership was lost: its process (%d) is "
                "killed",
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
    mark = mark_of(task)
    return mark is not None and mark.revoke_on_loss


def _revocable(base: Any) -> Any:
    """Return a revocable subclass of a class of requests, made as Celery's documentation shows."""
    if base in _REQUEST_CLASSES or base in _REQUEST_CLASSES.values():
        return _REQUEST_CLASSES.get(base, base)

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
            if goes_back(self.task, mark_of(self.task)):
                state.task_ready(self)
                if not self.ignore_result:
                    self.task.backend.mark_as_retry(self.id, error, request=self._context)
                self.reject(requeue=True)
                return None
            try:
                raise error
            except LeadershipLostError:
                return super().on_failure(ExceptionInfo(), *args, **kwargs)

    _REQUEST_CLASSES[base] = RevocableRequest
    return RevocableRequest
