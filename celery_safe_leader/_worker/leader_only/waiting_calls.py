"""Gives back the leader-only calls that a worker has taken and not begun.

A worker takes more messages than it runs at once. Those of leader-only tasks would wait for their
turn behind its other tasks and be forwarded then, although this worker no longer leads. So they go
back to the broker at once, and their requests end when their turn comes. That works where Celery
itself keeps what waits, which is the prefork pool; what other pools have been given stays there,
and is forwarded when its turn comes.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from celery.worker import state

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.run_guard import mark_of_run

__all__ = ["give_back_waiting_calls", "returnable"]


@cache
def returnable(base: Any) -> Any:
    """Return a subclass of a class of requests, made as Celery's documentation shows.

    Its requests end without a run, a result or an acknowledgement once they were given back.
    """

    class ReturnableRequest(base):
        """A request whose message may go back to the broker before it is run."""

        given_back = False

        def revoked(self) -> Any:
            """Return whether it must not run. Celery asks right before the pool gets it."""
            return self.given_back or super().revoked()

    return ReturnableRequest


def give_back_waiting_calls(consumer: Any) -> None:
    """Return to the broker what a pool of processes has not been given yet.

    On the loop's thread, which also gives the pool its tasks, and once the leader queue is no
    longer consumed: the broker might deliver the messages to this worker again.

    Args:
        consumer: The worker's ``Consumer``.

    Raises:
        Exception: One of the consumer's connection errors: the broker is away. It keeps the
            messages, and none of them is run from here.
    """
    if consumer.pool is None or not consumer.pool.uses_semaphore:
        return
    waiting = [request for request in list(state.requests.values()) if _can_go_back(request)]
    for request in waiting:
        # As if it were acknowledged: nothing else may answer the message.
        request.given_back = request.acknowledged = True
        state.task_ready(request)
        request.message.requeue()
    if waiting:
        logger.info(
            "Returned %d leader-only calls that waited here: this worker is not the leader",
            len(waiting),
        )


def _can_go_back(request: Any) -> bool:
    """Return whether it waits, and is one that a worker that does not lead would forward."""
    if request not in state.reserved_requests or request._apply_result is not None:
        return False
    if request.acknowledged or not hasattr(request, "given_back"):
        return False
    mark = mark_of_run(request)
    return mark is not None and mark.otherwise == "forward"
