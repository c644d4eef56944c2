"""Gives back the leader-only calls that a worker has taken and not begun.

A worker takes more messages than it runs at once. Those of leader-only tasks would wait for their
turn behind its other tasks and be forwarded then, although this worker no longer leads. So they go
back to the broker at once. In the prefork pool Celery itself keeps what waits, and their requests
end when their turn comes; the pool of threads is given everything and can be told to leave out what
it has not begun. A solo worker has at most messages that it has not read yet, and so has one of
greenlets, beside a single call that waits until one of them is free: that one is forwarded.

A call that a countdown or a rate limit keeps here goes back when its time comes.

On Redis a worker has asked for one more message already when it ends. What went back right then
could be sent to it again, and nobody would look at it before the worker has waited for its pool.
So there the answer is read first, and then the messages go back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import cache, wraps
from typing import Any

from celery.worker import state

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.run_guard import mark_of_run

__all__ = [
    "answers_may_be_awaited",
    "await_last_answer",
    "give_back_late_calls",
    "give_back_waiting_calls",
    "requeue",
    "returnable",
    "take_waiting_calls",
]

_LONGEST_QUESTION = 1.0
"""Seconds for which a worker asks Redis for a message, where the transport does not say."""
_LAG = 0.5
"""Seconds that Redis' answer may take beyond that."""


@cache
def returnable(base: Any) -> Any:
    """Return a subclass of a class of requests, made as Celery's documentation shows.

    Its requests end without a run, a result or an acknowledgement once they were given back.
    """

    class ReturnableRequest(base):
        """A request whose message may go back to the broker before it is run."""

        given_back = False
        future: Future[Any] | None = None
        """What a pool of threads runs, from when it has been given the request."""

        def __init_subclass__(cls, **kwargs: Any) -> None:
            """Keep what the pool answers: Celery derives the class that gives it the request."""
            super().__init_subclass__(**kwargs)
            execute = cls.__dict__.get("execute_using_pool")
            if execute is not None:
                cls.execute_using_pool = _keeping_the_future(execute)

        def revoked(self) -> Any:
            """Return whether it must not run. Celery asks right before the pool gets it."""
            return self.given_back or super().revoked()

    return ReturnableRequest


def give_back_waiting_calls(consumer: Any) -> None:
    """Return to the broker what the pool has not begun.

    On the loop's thread, which also gives the pool its tasks, and once the leader queue is no
    longer consumed: the broker might deliver the messages to this worker again.

    Args:
        consumer: The worker's ``Consumer``.

    Raises:
        Exception: One of the consumer's connection errors: the broker is away. It keeps the
            messages, and none of them is run from here.
    """
    requeue(take_waiting_calls(consumer))


def give_back_late_calls(consumer: Any, step: Any) -> None:
    """Let calls go back whose time comes while this worker does not lead.

    A countdown or a rate limit may have kept them here since it did. They would wait for the pool
    behind its other tasks.

    Args:
        consumer: The worker's ``Consumer``, before it makes its strategies.
        step: Knows whether the worker leads, and returns messages.
    """
    hand_on = consumer.on_task_request

    def on_task_request(request: Any) -> Any:
        if not hasattr(request, "given_back") or step.leads or not _is_forwarded(request):
            return hand_on(request)
        request.given_back = request.acknowledged = True
        state.task_ready(request)
        step.return_message(request.message)
        return None

    consumer.on_task_request = on_task_request


def take_waiting_calls(consumer: Any) -> list[Any]:
    """End the requests that the pool has not begun; return their messages.

    On the loop's thread. None of them is run, acknowledged or returned from now on.

    Args:
        consumer: The worker's ``Consumer``.
    """
    if consumer.pool is None:
        return []
    keeps = not consumer.pool.uses_semaphore
    # The last first: a thread that becomes free meanwhile takes the first of what is left.
    waiting = [each for each in reversed(list(state.requests.values())) if _ends(each, keeps)][::-1]
    for request in waiting:
        # As if it were acknowledged: nothing else may answer the message.
        request.given_back = request.acknowledged = True
        state.task_ready(request)
    return [request.message for request in waiting]


def requeue(messages: Iterable[Any]) -> None:
    """Return messages to their queue.

    Raises:
        Exception: One of the consumer's connection errors: the broker is away, and keeps them.
    """
    count = 0
    for message in messages:
        message.requeue()
        count += 1
    if count:
        logger.info(
            "Returned %d leader-only calls that waited here: this worker is not the leader", count
        )


def answers_may_be_awaited(consumer: Any) -> bool:
    """Return whether ``await_last_answer()`` reads what the broker sends last."""
    return consumer.hub is not None and consumer.conninfo.transport.driver_type == "redis"


def await_last_answer(consumer: Any, ends: Callable[[], bool]) -> None:
    """Let the worker's loop turn until Redis has answered the last question for a message.

    On the loop's thread, once no queue is consumed and the loop has ended. A message that comes
    goes back to its queue: kombu does that where nobody consumes. What pool processes report
    is heard meanwhile.

    Args:
        consumer: The worker's ``Consumer``.
        ends: Returns whether to stop waiting, since the worker has to end at once.
    """
    transport = consumer.connection.transport
    longest = float(getattr(transport, "brpop_timeout", _LONGEST_QUESTION)) + _LAG
    until = time.monotonic() + longest
    # So that the loop's last turn does not wait for longer.
    consumer.hub.call_later(longest, _nothing)
    while time.monotonic() < until and not ends():
        consumer.hub.run_once()


def _nothing() -> None:
    """Wake the loop."""


def _keeping_the_future(execute: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(execute)
    def execute_using_pool(self: Any, pool: Any, **kwargs: Any) -> Any:
        result = execute(self, pool, **kwargs)
        future = getattr(result, "f", None)
        if isinstance(future, Future):
            self.future = future
        return result

    return execute_using_pool


def _ends(request: Any, pool_keeps_what_waits: bool) -> bool:
    """Return whether it is one that a worker that does not lead would forward, and never begins.

    Args:
        request: Of a worker.
        pool_keeps_what_waits: Whether the pool is given requests before it can begin them. If so,
            the request is taken out of it.
    """
    if request not in state.reserved_requests or request.acknowledged:
        return False
    if not hasattr(request, "given_back") or not _is_forwarded(request):
        return False
    if pool_keeps_what_waits:
        return request.future is not None and request.future.cancel()
    return request._apply_result is None


def _is_forwarded(request: Any) -> bool:
    mark = mark_of_run(request)
    return mark is not None and mark.otherwise == "forward"
