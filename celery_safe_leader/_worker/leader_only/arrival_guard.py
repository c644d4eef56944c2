"""The guard at arrival: what happens to leader-only messages while this worker does not lead.

A cancelled consumer may still receive what the broker had sent. Such a message is not acknowledged
but returned to the queue, once this worker no longer consumes it; a task that is to be skipped or
to fail goes on to the guard of runs. A message that came by another queue is put into the leader
queue before it is acknowledged.
"""

from __future__ import annotations

from typing import Any

from celery.utils.imports import instantiate

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.mark import mark_of
from celery_safe_leader._worker.leader_only.run_guard import FORWARDS, forwards_of

__all__ = ["guard_arrivals", "strategy"]

_INNER = "leader_only_inner_strategy"


def guard_arrivals(app: Any) -> None:
    """Wrap the strategies of an app's leader-only tasks."""
    path = f"{__name__}:strategy"
    for task in app.tasks.values():
        if mark_of(task) is not None and task.Strategy != path:
            setattr(task, _INNER, task.Strategy)
            task.Strategy = path


def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    """Return the handler of a leader-only task's messages."""
    inner = instantiate(getattr(task, _INNER), task, app, consumer, **kwargs)
    step = getattr(consumer, "safe_leader", None)
    mark = mark_of(task)
    if step is None or mark is None:
        return inner

    def handle(message: Any, body: Any, ack: Any, *args: Any, **more: Any) -> Any:
        if not step.leads:
            if not step.queue.brought(message):
                _forward(step, consumer, task.name, message, ack)
                return None
            if mark.otherwise == "forward":
                step.return_message(message)
                return None
        return inner(message, body, ack, *args, **more)

    return handle


def _forward(step: Any, consumer: Any, task: str, message: Any, ack: Any) -> None:
    """Put a message into the leader queue and acknowledge it after that.

    If the broker goes away in between, the message is delivered again; it may run twice, but is
    never lost.
    """
    errors = consumer.connection_errors
    call = message.properties.get("correlation_id")
    count = forwards_of(message.headers) + 1

    def publish() -> None:
        try:
            step.queue.publish(message, {FORWARDS: count})
        except errors as exc:
            # The loop notices the lost connection by itself.
            logger.warning("Could not forward %s (%s); the broker keeps it: %s", task, call, exc)
            return
        logger.info(
            "Forwarded %s (%s) to leader queue %s (forward #%d): this worker is not the leader",
            task,
            call,
            step.queue.name,
            count,
        )
        ack(logger, errors)

    step.soon(publish)
