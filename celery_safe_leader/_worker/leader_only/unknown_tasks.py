"""Calls from the leader queue of tasks that this worker does not know.

In a rolling deploy a worker of the older release may lead while producers of the newer one call a
new task. Celery discards what a worker does not know; here every such call would be lost, since all
of them come to the one leader. So it goes back, and the worker lets others lead.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.queue import LeaderQueue
from celery_safe_leader._worker.leader_only.run_guard import FORWARDS, forwards_of

__all__ = ["UnknownTasks"]

_MOST_PASSES = 10
"""How often a call goes back; after that no worker knows the task, and Celery discards it."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a call goes back."""
_PATIENCE = 60.0
"""Seconds between two times that a worker lets others lead for it."""
_WHY = "unknown_task"
"""The cause in the history."""


class _StandsDown(Protocol):
    def stand_down(self, why: str) -> None:
        """Hand leadership over, and take part again behind the others."""


class UnknownTasks:
    """Returns calls of unknown tasks to the leader queue of one worker."""

    def __init__(
        self,
        consumer: Any,
        queue: LeaderQueue,
        member: _StandsDown | None,
        soon: Callable[[Callable[[], object]], None],
    ) -> None:
        """Take the place of what the consumer does with messages of unknown tasks.

        Args:
            consumer: The worker's ``Consumer``.
            queue: Its leader queue.
            member: Its part in the election, if it takes part.
            soon: Lets the loop call a function, from any thread.
        """
        self._queue = queue
        self._member = member
        self._soon = soon
        self._errors = consumer.connection_errors
        self._discard = consumer.on_unknown_task
        self._stood_down_at = -_PATIENCE
        consumer.on_unknown_task = self._received

    def _received(self, body: Any, message: Any, exc: Any) -> Any:
        count = forwards_of(message.headers) + 1
        if count > _MOST_PASSES or not self._queue.brought(message):
            return self._discard(body, message, exc)
        pause = backoff(count, first=_SHORTEST_PAUSE, longest=_LONGEST_PAUSE)
        logger.warning(
            "A call in leader queue %s is of a task that this worker does not know (%s): it goes "
            "back in %g s (%d of at most %d times), and this worker lets others lead. After that "
            "it is discarded",
            self._queue.name,
            exc,
            pause,
            count,
            _MOST_PASSES,
        )
        self._let_others_lead()
        timer = threading.Timer(pause, self._soon, (lambda: self._return(message, count),))
        timer.name, timer.daemon = "leader:unknown", True
        timer.start()
        return None

    def _return(self, message: Any, count: int) -> None:
        try:
            self._queue.publish(message, {FORWARDS: count})
        except self._errors as exc:
            logger.warning(
                "Could not return a call of an unknown task to %s; the broker keeps it: %s",
                self._queue.name,
                exc,
            )
        else:
            message.ack_log_error(logger, self._errors)

    def _let_others_lead(self) -> None:
        now = time.monotonic()
        if self._member is not None and now - self._stood_down_at >= _PATIENCE:
            self._stood_down_at = now
            threading.Thread(
                target=self._member.stand_down, args=(_WHY,), name="leader:unknown", daemon=True
            ).start()
