"""What Celery does besides publishing a message: result backend, signals, events."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals

from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._publishing.messages import Message

__all__ = ["Notifications"]

logger = logging.getLogger("celery_safe_leader")


class Notifications:
    """Tells the result backend before a message is sent, and everybody else after it.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._event_dispatcher: Any = None
        self._backend_listens: bool | None = None

    def announce(self, producer: Any, message: Message) -> None:
        """Tell a result backend that is not Celery's own.

        Celery's backends prepare for reading the result: Redis subscribes to a channel for each
        task, RPC declares a queue for replies. Beat reads no results, and would only be held up.
        """
        if self._backend_listens is None:
            method = type(self._app.backend).on_task_call
            self._backend_listens = not method.__module__.startswith("celery.")
        if self._backend_listens and not message.headers.get("ignore_result"):
            self._app.backend.on_task_call(producer, message.task_id)

    def sent(self, producer: Any, message: Message, nonce: str) -> None:
        """Send ``after_task_publish`` and, if the app wants it, the event task-sent."""
        if signals.after_task_publish.receivers:
            signals.after_task_publish.send(
                sender=message.task,
                body=message.content,
                headers={**message.headers, PUBLICATION: nonce},
                exchange=message.exchange,
                routing_key=message.routing_key,
            )
        if message.event:
            self._send_event(producer, message)

    def _send_event(self, producer: Any, message: Message) -> None:
        if self._event_dispatcher is None:
            self._event_dispatcher = self._app.events.Dispatcher(
                enabled=False, buffer_while_offline=False
            )
        try:
            fields = dict(message.event or {})
            self._event_dispatcher.publish("task-sent", fields, producer, retry=False)
        except Exception as exc:
            # The task is on its way; only monitors miss it.
            logger.warning(
                "Sending the task-sent event of %s (%s) failed: %s",
                message.task,
                message.task_id,
                exc,
            )
