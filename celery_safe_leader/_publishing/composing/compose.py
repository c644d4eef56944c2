"""Where a message goes and what it looks like, by Celery's own rules.

``compose`` follows ``Task.apply_async``, ``Celery.send_task`` and ``AMQP.send_task_message`` up
to the point where they hand the message to a producer, so that the message of an entry is the
one that stock beat would have sent. Where somebody has changed one of these, or listens to Celery's
signals, nothing is composed here, and they are called instead: see ``own_way``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kombu.common import Broadcast
from kombu.utils import functional

__all__ = ["COMPOSED_OPTIONS", "Draft", "compose"]

# Without annotations in some releases of kombu.
_maybe_list: Any = functional.maybe_list

COMPOSED_OPTIONS = frozenset(
    {
        "compression", "countdown", "delivery_mode", "eta", "exchange", "exchange_type", "expires",
        "headers", "ignore_result", "immediate", "leader", "link", "link_error", "mandatory",
        "priority", "queue", "retry", "retry_policy", "routing_key", "serializer", "shadow",
        "soft_time_limit", "task_id", "time_limit",
    }
)  # fmt: skip
"""The options that ``compose`` knows. Any other is left to Celery."""


class Draft(NamedTuple):
    """A message before it is encoded: what ``Producer.publish`` would be called with."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    content: Any
    event: dict[str, Any] | None
    exchange: str
    routing_key: str
    declare: Sequence[Any]
    serializer: str
    compression: str | None
    delivery_mode: Any


def compose(
    app: Any,
    task: Any,
    name: str,
    arguments: tuple[Sequence[Any], Mapping[str, Any]],
    options: Mapping[str, Any],
    task_id: str,
) -> Draft:
    """Return the message of a task.

    Args:
        app: The Celery app.
        task: The registered task, or ``None``.
        name: Name of the task.
        arguments: Positional and keyword arguments.
        options: Options of the call, among ``COMPOSED_OPTIONS``; ``eta`` and ``expires`` as
            moments, no ``countdown``.
        task_id: Id of the task.
    """
    merged = {**task._get_exec_options(), **options} if task is not None else dict(options)
    if task is not None:
        merged.setdefault("ignore_result", task.ignore_result)
    for consumed in ("leader", "task_id", "retry"):
        merged.pop(consumed, None)
    call = {
        "eta": merged.pop("eta", None),
        "expires": merged.pop("expires", None),
        "time_limit": merged.pop("time_limit", None),
        "soft_time_limit": merged.pop("soft_time_limit", None),
        "shadow": merged.pop("shadow", None),
        "ignore_result": merged.pop("ignore_result", None),
        "callbacks": _maybe_list(merged.pop("link", None)),
        "errbacks": _maybe_list(merged.pop("link_error", None)),
    }
    routed = app.amqp.router.route(merged, name, *arguments, task)
    message = app.amqp.create_task_message(
        task_id,
        name,
        *arguments,
        reply_to=app.thread_oid,
        create_sent_event=app.conf.task_send_sent_event,
        **call,
        **routed,
    )
    routed.pop("retry_policy", None)
    return _address(app, message, **routed)


def _address(
    app: Any,
    message: Any,
    *,
    exchange: Any = None,
    routing_key: str | None = None,
    queue: Any = None,
    exchange_type: str | None = None,
    serializer: str | None = None,
    delivery_mode: Any = None,
    compression: str | None = None,
    headers: Mapping[str, Any] | None = None,
    **properties: Any,
) -> Draft:
    """Do what ``AMQP.send_task_message`` does before it calls the producer."""
    conf = app.conf
    message.headers.update(headers or {})
    message.properties.update(properties)
    if queue is None and exchange is None:
        queue = app.amqp.default_queue
    queue_exchange = getattr(queue, "exchange", None)
    delivery_mode = (
        delivery_mode
        or getattr(queue_exchange, "delivery_mode", None)
        or conf.task_default_delivery_mode
    )
    exchange_type = exchange_type or getattr(queue_exchange, "type", "direct")
    if (not exchange or not routing_key) and exchange_type == "direct":
        exchange, routing_key = "", getattr(queue, "name", None)
    elif exchange is None:
        exchange = queue.exchange.name or app.amqp.default_exchange
        routing_key = routing_key or queue.routing_key or conf.task_default_routing_key
    declare = [queue] if queue and not isinstance(queue, Broadcast) else []
    event = message.sent_event and {
        **message.sent_event,
        "queue": getattr(queue, "name", None),
        "exchange": getattr(exchange, "name", exchange),
        "routing_key": routing_key,
    }
    return Draft(
        message.headers,
        message.properties,
        message.body,
        event,
        # A route may name an exchange that nobody declared: that is stock too.
        getattr(exchange, "name", exchange),
        routing_key or "",
        declare,
        serializer or conf.task_serializer,
        compression or conf.task_compression,
        delivery_mode,
    )
