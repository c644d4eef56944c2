"""The leader queue: only the worker that leads consumes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.exceptions import ImproperlyConfigured
from kombu.entity import Queue
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
    """Return the queue as the app declares it: in ``task_queues``, or as any that is missing there.

    The same in every process: a queue that exists must be declared with the same arguments.
    """
    queues = app.amqp.queues
    if name not in queues:
        queues.add(queues.new_missing(name))
    found: Queue = queues[name]
    return found


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
        self._channel: Any = None
        queues = consumer.app.amqp.queues
        if queues._consume_from is not None and name in queues._consume_from:
            raise ImproperlyConfigured(
                f"{name!r} is the leader queue ({setting}) and must not be among the queues of a "
                f"worker (-Q): the elected worker consumes it by itself, and only while it leads. "
                f"Leave it out of -Q"
            )
        declaration(consumer.app, name)
        # Without a selection, some releases of Celery consume every queue that they know, such as
        # this one after the first call of a leader-only task. This makes a selection.
        self.forget()
        self._add = consumer.add_task_queue
        self._cancel = consumer.cancel_task_queue

    @property
    def consumed(self) -> bool:
        """Whether this worker consumes it now."""
        tasks = self._consumer.task_consumer
        return tasks is not None and tasks.consuming_from(self.name)

    @property
    def is_deaf(self) -> bool:
        """Whether the broker has closed the channel on which this worker consumes its queues."""
        tasks = self._consumer.task_consumer
        return tasks is not None and getattr(tasks.channel, "is_open", True) is False

    @property
    def is_on_a_topic_exchange(self) -> bool:
        """Whether messages reach it through a topic exchange, and not by its name."""
        return bool(declaration(self._consumer.app, self.name).exchange.type == "topic")

    def declare(self) -> None:
        """Declare the queue, on a channel of its own: a broker that refuses closes the channel.

        Does nothing for brokers that close none.
        """
        if not self._closes_channels:
            return
        with self._consumer.connection.channel() as channel:
            bound: Any = declaration(self._consumer.app, self.name)(channel)
            bound.declare()

    def consume(self) -> None:
        """Start to consume the queue.

        Raises:
            Exception: An error of the transport: the broker refused it.
        """
        if not self.consumed and self._consumer.task_consumer is not None:
            self.declare()
            self._add(self.name)
            self._come_first()

    def _come_first(self) -> None:
        """Let the queue be read before the others where they are read in the order of their start.

        With ``queue_order_strategy = "priority"`` what is started last comes last, and only while
        all others are empty. The calls in this queue can run nowhere else.
        """
        channel: Any = self._consumer.task_consumer.channel
        started = getattr(channel, "_active_queues", None)
        strategy = getattr(channel, "queue_order_strategy", None)
        if strategy == "priority" and isinstance(started, list) and self.name in started:
            started.remove(self.name)
            started.insert(0, self.name)
            channel._update_queue_cycle()

    def cancel(self) -> None:
        """Stop consuming the queue. Messages already delivered stay with the worker."""
        if self.consumed:
            self._cancel(self.name)
        self.forget()

    def forget(self) -> None:
        """Keep Celery from consuming the queue after the next reconnect."""
        self._channel = None
        self._consumer.app.amqp.queues.deselect([self.name])

    def brought(self, message: Any) -> bool:
        """Return whether a message came through this queue."""
        return brought(declaration(self._consumer.app, self.name), message.delivery_info)

    def publish(self, message: Any, headers: Mapping[str, Any]) -> None:
        """Publish a copy of a message to this queue; return once the broker has it.

        Args:
            message: As the transport delivered it.
            headers: Added to the message's own headers.

        Raises:
            Exception: An error of the transport: the broker is away, or refused it.
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
        producer(self._own_channel(message), auto_declare=False).publish(
            message.body,
            exchange="" if direct else queue.exchange.name,
            routing_key=self.name if direct else queue.routing_key,
            mandatory=True,
            headers={**own, **headers},
            compression=compression,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            expiration=None if expiration is None else float(expiration) / 1000,
            **properties,
        )

    @property
    def is_left_at_once(self) -> bool:
        """Whether this worker gets no message of it once its consumption has been cancelled.

        On Redis a read that has begun brings one more. A worker whose loop has ended never looks
        at it, and does not even know that it has it.
        """
        return self._closes_channels

    @property
    def _closes_channels(self) -> bool:
        return bool(self._consumer.conninfo.transport.driver_type == "amqp")

    def _own_channel(self, message: Any) -> Any:
        """Return a channel for copies, where a refused one closes no consumer's channel.

        Only a broker that closes channels needs one. It confirms what it has, so that a message is
        acknowledged after its copy has arrived.
        """
        if not self._closes_channels:
            bound: Any = declaration(self._consumer.app, self.name)(message.channel)
            bound.declare()
            return message.channel
        if self._channel is None or not self._channel.is_open:
            try:
                self.declare()
            except self._consumer.channel_errors as exc:
                # It may be there nevertheless; if not, the broker returns the copy.
                logger.debug("Could not declare %s before a forward: %s", self.name, exc)
            self._channel = self._consumer.connection.channel()
            self._channel.basic_publish = self._channel.basic_publish_confirm
        return self._channel
