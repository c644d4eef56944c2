"""The event task-sent, for monitors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._publishing.messages import Message

__all__ = ["Notifications"]


class Notifications:
    """Tells monitors of messages that have arrived.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._event_dispatcher: Any = None

    def send_event(self, connect: Callable[[], Any], message: Message) -> None:
        """Send the event task-sent. An error is logged.

        Args:
            connect: Returns the producer to send it with.
            message: A message that has arrived, with an event.
        """
        if self._event_dispatcher is None:
            self._event_dispatcher = self._app.events.Dispatcher(
                enabled=False, buffer_while_offline=False
            )
        try:
            fields = dict(message.event or {})
            self._event_dispatcher.publish("task-sent", fields, connect(), retry=False)
        except Exception as exc:
            # The task is on its way; only monitors miss it.
            logger.warning(
                "Sending the task-sent event of %s (%s) failed: %s",
                message.task,
                message.task_id,
                exc,
            )

    def send_events(self, connect: Callable[[], Any], message: Any) -> None:
        """Send the events that followed a message of Celery's own code. An error is logged.

        Args:
            connect: Returns the producer to send them with.
            message: A ``CalledMessage`` that has arrived.
        """
        for event in message.events:
            try:
                connect().publish(event.body, **{**event.options, "retry": False})
            except Exception as exc:
                logger.warning(
                    "Sending an event of %s (%s) failed: %s", message.task, message.task_id, exc
                )
