"""The guard at arrival: messages of the leader queue that come when this worker does not lead.

A cancelled consumer may still get what the broker had sent. Such a message goes back to the queue
before it is acknowledged, once this worker consumes the queue no longer.
"""

from __future__ import annotations

from typing import Any

from celery.utils.imports import instantiate

from celery_safe_leader._worker.rules import rules_of

__all__ = ["guard_arrivals", "strategy"]

_INNER = "leader_only_inner_strategy"


def guard_arrivals(app: Any) -> None:
    """Put the guard before the strategies of an app's leader-only tasks."""
    path = f"{__name__}:strategy"
    for task in app.tasks.values():
        if rules_of(task) is not None and task.Strategy != path:
            setattr(task, _INNER, task.Strategy)
            task.Strategy = path


def strategy(task: Any, app: Any, consumer: Any, **kwargs: Any) -> Any:
    """Make the handler of a leader-only task's messages."""
    inner = instantiate(getattr(task, _INNER), task, app, consumer, **kwargs)
    election = getattr(consumer, "safe_leader", None)
    rules = rules_of(task)
    if election is None or rules is None or rules.otherwise != "forward":
        return inner

    def handle(message: Any, *args: Any, **more: Any) -> Any:
        came_by_queue = message.delivery_info.get("routing_key") == election.queue.name
        if came_by_queue and not election.leads:
            election.give_back(message)
            return None
        return inner(message, *args, **more)

    return handle
