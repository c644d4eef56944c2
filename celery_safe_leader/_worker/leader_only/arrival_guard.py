"""The guard at arrival: what happens to leader-only messages while this worker does not lead.

A cancelled consumer may still receive what the broker had sent. Such a message is not acknowledged
but returned to the queue, once this worker no longer consumes it; a task that is to be skipped or
to fail goes on to the guard of runs. A message that came by another queue is put into the leader
queue before it is acknowledged.
"""

from __future__ import annotations

import threading
from typing import Any

from celery.utils.imports import instantiate, symbol_by_name

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.mark import LeaderOnlyMark, mark_of
from celery_safe_leader._worker.leader_only.run_guard import (
    FORWARDS,
    MAPS,
    forwards_of,
    mapped_mark,
)
from celery_safe_leader._worker.leader_only.waiting_calls import returnable

__all__ = ["guard_arrivals", "strategy"]

_INNER = "leader_only_inner_strategy"
_REFUSED_PAUSE = 5.0
"""Seconds until a message goes back that the broker let nobody forward. Until then it takes one of
the places that the worker has for messages."""


def guard_arrivals(app: Any) -> None:
    """Wrap the strategies of an app's leader-only tasks, and of those that call them for items.

    Their requests become such that can be given back while they wait.
    """
    path = f"{__name__}:strategy"
    guarded = [task for task in app.tasks.values() if mark_of(task) is not None]
    if guarded:
        guarded += [app.tasks[name] for name in MAPS]
    for task in guarded:
        if task.Strategy != path:
            setattr(task, _INNER, task.Strategy)
            task.Strategy = path
            task.Request = returnable(symbol_by_name(task.Request))


def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    """Return the handler of a leader-only task's messages."""
    inner = instantiate(getattr(task, _INNER), task, app, consumer, **kwargs)
    step = getattr(consumer, "safe_leader", None)
    if step is None:
        return inner

    def handle(message: Any, body: Any, ack: Any, *args: Any, **more: Any) -> Any:
        stays = step.leads and not step.leaves
        mark = None if stays else mark_of(task) or _mark_of_mapped(app, message, body)
        if mark is not None:
            if step.leaves and step.queue.brought(message):
                step.return_message(message)
                return None
            if step.leads:
                return inner(message, body, ack, *args, **more)
            if not step.queue.brought(message):
                _forward(step, consumer, task.name, message, ack)
                return None
            if mark.otherwise == "forward":
                step.return_message(message)
                return None
        return inner(message, body, ack, *args, **more)

    return handle


def _mark_of_mapped(app: Any, message: Any, body: Any) -> LeaderOnlyMark | None:
    try:
        if body is None:
            args, kwargs, *_ = message.payload
        else:  # protocol 1
            args, kwargs = body["args"], body["kwargs"]
        return mapped_mark(app, args, kwargs)
    except Exception:  # whatever cannot be read is Celery's to report
        return None


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
        except Exception as exc:  # what a transport raises for a refusal differs
            logger.error(
                "Could not forward %s (%s) to leader queue %s: %s. It goes back to its queue in "
                "%g s; check that the broker's user may declare and write the leader queue",
                task,
                call,
                step.queue.name,
                exc,
                _REFUSED_PAUSE,
            )
            _return_later(step, message, errors)
        else:
            logger.info(
                "Forwarded %s (%s) to leader queue %s (forward #%d): this worker is not the leader",
                task,
                call,
                step.queue.name,
                count,
            )
            ack(logger, errors)

    step.soon(publish)


def _return_later(step: Any, message: Any, errors: Any) -> None:
    def requeue() -> None:
        message.reject_log_error(logger, errors, requeue=True)

    timer = threading.Timer(_REFUSED_PAUSE, step.soon, (requeue,))
    timer.name, timer.daemon = "leader:forward", True
    timer.start()
