"""The leader queue: consumed while this worker leads, and by no other."""

from __future__ import annotations

from typing import Any

from celery.exceptions import ImproperlyConfigured
from kombu.entity import Exchange, Queue

__all__ = ["LeaderQueue", "declaration"]


def declaration(app: Any, name: str) -> Queue:
    """Return the queue as the app declares it in ``task_queues``, else a direct one."""
    queues = app.amqp.queues
    if name in queues:
        found: Queue = queues[name]
        return found
    exchange: Any = Exchange
    queue: Any = Queue
    made: Queue = queue(name, exchange(name, type="direct"), routing_key=name)
    return made


class LeaderQueue:
    """Consumption of the leader queue by one worker. Use it from the loop's thread."""

    def __init__(self, consumer: Any, name: str, setting: str) -> None:
        """Take the queue out of what the worker consumes by itself.

        Args:
            consumer: The worker's ``Consumer``.
            name: Of the queue.
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

    @property
    def consumed(self) -> bool:
        """Whether this worker consumes it now."""
        tasks = self._consumer.task_consumer
        return tasks is not None and tasks.consuming_from(self.name)

    def consume(self) -> None:
        """Consume it from now on."""
        if not self.consumed and self._consumer.task_consumer is not None:
            self._consumer.add_task_queue(self.name)

    def cancel(self) -> None:
        """Consume it no longer. What was delivered already stays with the worker."""
        if self.consumed:
            self._consumer.cancel_task_queue(self.name)
        self.forget()

    def forget(self) -> None:
        """Do not consume it after the next reconnect by itself."""
        self._consumer.app.amqp.queues.deselect([self.name])
