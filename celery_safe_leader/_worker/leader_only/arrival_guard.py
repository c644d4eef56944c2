"""The guard at arrival: messages of leader-only tasks that come when this worker does not lead.

A cancelled consumer may still get what the broker had sent. Such a message goes back to the queue
before it is acknowledged, once this worker consumes the queue no longer. One that came by the
task's name alone is put into the leader queue before it is acknowledged.
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
    """Put the guard before the strategies of an app's leader-only tasks."""
    path = f"{__name__}:strategy"
    for task in app.tasks.values():
        if mark_of(task) is not None and task.Strategy != path:
            setattr(task, _INNER, task.Strategy)
            task.Strategy = path


def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    """Make the handler of a leader-only task's messages."""
    inner = instantiate(getattr(task, _INNER), task, app, consumer, **kwargs)
    election = getattr(consumer, "safe_leader", None)
    rules = mark_of(task)
    if election is None or rules is None:
        return inner

    def handle(message: Any, body: Any, ack: Any, *args: Any, **more: Any) -> Any:
        if not election.leads:
            if not election.queue.brought(message):
                _pass_on(election, consumer, task.name, message, ack)
                return None
            if rules.otherwise == "forward":
                election.give_back(message)
                return None
        return inner(message, body, ack, *args, **more)

    return handle


def _pass_on(election: Any, consumer: Any, task: str, message: Any, ack: Any) -> None:
    """Put a message into the leader queue, and acknowledge it after that.

    If the broker goes away in between, it comes again; it may come twice, and is never lost.
    """
    errors = consumer.connection_errors
    call = message.properties.get("correlation_id")
    count = forwards_of(message.headers) + 1

    def forward() -> None:
        try:
            election.queue.publish(message, {FORWARDS: count})
        except errors as exc:
            # The loop notices it by itself.
            logger.warning("Could not forward %s (%s); the broker keeps it: %s", task, call, exc)
            return
        logger.info(
            "Forwarded %s (%s) to the leader queue %s, for the %d. time: this worker does not lead",
            task,
            call,
            election.queue.name,
            count,
        )
        ack(logger, errors)

    election.soon(forward)
