"""The leader queue: only the worker that leads consumes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from celery_safe_leader._loggers import worker_logger as logger

__all__ = ["LeaderQueue", "brought", "declaration"]

_NOT_COPIED = frozenset(
    {
        # Kombu makes them for the copy.
        *("application_headers", "headers", "content_type", "content_encoding", "compression"),
        *("delivery_info", "delivery_tag", "body_encoding"),
        # In seconds when sent, in milliseconds when read.
        "expiration",
        # RabbitMQ refuses any other than that of the connection.
        "user_id",
    }
)
"""Properties that are not copied from a message to its copy."""


def declaration(app: Any, name: str) -> Queue:
    """Return the queue as the app declares it in ``task_queues``, or else a direct one."""
    queues = app.amqp.queues
    if name in queues:
        found: Queue = queues[name]
        return found
    exchange: Any = Exchange
    queue: Any = Queue
    made: Queue = queue(name, exchange(name, type="direct"), routing_key=name)
    return made


def brought(queue: Queue, delivery_info: Mapping[str, Any] | None) -> bool:
    """Return whether a message came through the leader queue, and not by another one."""
    key = (delivery_info or {}).get("routing_key")
    # Celery addresses a queue of a direct exchange by name.
    return key is not None and key in (queue.name, queue.routing_key)


class LeaderQueue:
    """One worker's consumption of the leader queue. For the loop's thread."""

    def __init__(self, consumer: Any, name: str, setting: str) -> None:
        """Remove the queue from those that the worker consumes from its start.

        Args:
            consumer: The worker's ``Consumer``.
            name: Name of the queue.
            setting: ``leader_queue`` as the user spells it.

        Raises:
            ImproperlyConfigured: The worker was told to consume the queue.
        """
        self.name = name
        self._consumer = consumer
        queues = consumer.app.amqp.queues
        if queues._consume_from is not None and name in queues._consume_from:
            raise ImproperlyConfigured(
                f"{name!r} is the leader queue ({setting}) and must not be among the queues of a "
                f"worker (-Q): the elected worker consumes it by itself, and only while it leads. "
                f"Leave it out of -Q"
            )
        if queues._consume_from is None:
            # Without a selection, some releases of Celery consume every queue that they know,
            # such as this one after the first call of a leader-only task.
            others = [known for known in queues if known != name]
            queues.select(others or [consumer.app.conf.task_default_queue])
        queues.add(declaration(consumer.app, name))
        self._add = consumer.add_task_queue
        consumer.add_task_queue = self._add_other

    @property
    def consumed(self) -> bool:
        """Whether this worker consumes it now."""
        tasks = self._consumer.task_consumer
        return tasks is not None and tasks.consuming_from(self.name)

    def consume(self) -> None:
        """Start to consume the queue."""
        if not self.consumed and self._consumer.task_consumer is not None:
            self._add(self.name)

    def cancel(self) -> None:
        """Stop consuming the queue. Messages already delivered stay with the worker."""
        if self.consumed:
            self._consumer.cancel_task_queue(self.name)
        self.forget()

    def forget(self) -> None:
        """Keep Celery from consuming the queue after the next reconnect."""
        self._consumer.app.amqp.queues.deselect([self.name])

    def brought(self, message: Any) -> bool:
        """Return whether a message came through this queue."""
        return brought(declaration(self._consumer.app, self.name), message.delivery_info)

    def publish(self, message: Any, headers: Mapping[str, Any]) -> None:
        """Publish a copy of a message to this queue, on the channel that delivered the message.

        So the broker has the copy before it learns what is sent on the channel afterwards, such
        as the acknowledgement of the message.

        Args:
            message: As the transport delivered it.
            headers: Added to the message's own headers.
        """
        queue = declaration(self._consumer.app, self.name)
        direct = queue.exchange.type == "direct"
        own = dict(message.headers)
        # The body was decompressed on arrival.
        compression = own.pop("compression", None)
        properties = {
            name: value for name, value in message.properties.items() if name not in _NOT_COPIED
        }
        expiration = message.properties.get("expiration")
        producer: Any = Producer
        producer(message.channel, auto_declare=False).publish(
            message.body,
            exchange="" if direct else queue.exchange.name,
            routing_key=self.name if direct else queue.routing_key,
            declare=[queue],
            headers={**own, **headers},
            compression=compression,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            expiration=None if expiration is None else float(expiration) / 1000,
            **properties,
        )

    def _add_other(self, queue: Any, *args: Any, **kwargs: Any) -> Any:
        """Replace ``Consumer.add_task_queue``, which ``celery control add_consumer`` calls."""
        if queue == self.name:
            logger.warning(
                "Refused to consume %s: it is the leader queue, which a worker consumes by itself "
                "while it leads",
                self.name,
            )
            return None
        return self._add(queue, *args, **kwargs)
