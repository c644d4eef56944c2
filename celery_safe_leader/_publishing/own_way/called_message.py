"""A message that Celery's own code gave to a producer, kept as it was given."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._schedules.moments import from_datetime

__all__ = ["CalledMessage", "Event", "Prepared", "task_id_of"]


_OLD = 1.0
"""Seconds after which the time to live that kombu has written is wrong."""


class Prepared(NamedTuple):
    """A message as kombu made it for one attempt, up to the write to its channel."""

    message: Any
    options: dict[str, Any]
    """Of the channel's ``basic_publish``."""

    def copy(self) -> Any:
        """Return a copy of the message, which a virtual channel changes when it writes it."""
        message = self.message
        properties = message["properties"]
        info = {**properties.get("delivery_info", {})}
        return {**message, "properties": {**properties, "delivery_info": info}}

    def name_publication(self, nonce: str) -> bool:
        """Write the nonce of the attempt into the headers; return whether they were found."""
        message = self.message
        if isinstance(message, dict):  # kombu's virtual transports
            headers = message.get("headers")
        else:
            headers = getattr(message, "properties", {}).get("application_headers")
        if not isinstance(headers, dict):
            return False
        headers[PUBLICATION] = nonce
        return True


class Event(NamedTuple):
    """What was given to the producer and is no task: it follows the message before it."""

    body: Any
    options: dict[str, Any]


@dataclass(eq=False)
class CalledMessage:
    """One message of a run. For one thread at a time."""

    entry: str
    """Name of the entry."""
    task: str
    """Name of the task."""
    task_id: str
    """Id of the task."""
    body: Any
    options: dict[str, Any]
    """Of ``Producer.publish``, with our headers and without the nonce."""
    prepared: Prepared | None = None
    """What kombu made of it when it was given; the first attempt uses it up."""
    events: list[Event] = field(default_factory=list)
    given_at: float = field(default_factory=time.time)

    @property
    def declare(self) -> Sequence[Any]:
        """The queues that have to be declared first."""
        return [each for each in self.options.get("declare") or () if hasattr(each, "exchange")]

    @property
    def exchange(self) -> str:
        """Name of the exchange; empty for the anonymous one."""
        exchange = self.options.get("exchange")
        return str(getattr(exchange, "name", exchange) or "")

    @property
    def routing_key(self) -> str:
        """Routing key."""
        return str(self.options.get("routing_key") or "")

    @property
    def expires_us(self) -> int | None:
        """When it expires, in microseconds since 1970; ``None`` if it does not."""
        fields = self.body if isinstance(self.body, Mapping) else self.options["headers"]
        expires = fields.get("expires")
        if expires is None:
            return None
        try:
            return from_datetime(datetime.fromisoformat(str(expires)))
        except (TypeError, ValueError):
            return None

    def take_prepared(self, nonce: str, now: float) -> Prepared | None:
        """Return what kombu has made already, under a nonce; ``None`` if it is used up or too old.

        Args:
            nonce: Of this attempt.
            now: Seconds since 1970.
        """
        prepared, self.prepared = self.prepared, None
        if prepared is None or not prepared.name_publication(nonce):
            return None
        is_old = now - self.given_at > _OLD and self.options.get("expiration") is not None
        return None if is_old else prepared

    def collect(self, collector: Any, nonce: str, now: float) -> None:
        """Let a ``MessageCollector`` have its commands. Nothing is sent, and nothing used up.

        Args:
            collector: For the channel of the broker.
            nonce: Of this attempt.
            now: Seconds since 1970.
        """
        kept = self.prepared
        prepared = self.take_prepared(nonce, now)
        if prepared is None:
            self.give(collector.producer, nonce, now)
            return
        collector.publish(prepared.copy(), **prepared.options)
        self.prepared = kept

    def send(self, producer: Any, nonce: str, now: float) -> None:
        """Write it to the broker.

        Args:
            producer: Of kombu.
            nonce: Of this attempt.
            now: Seconds since 1970.
        """
        prepared = self.take_prepared(nonce, now)
        if prepared is None:
            self.give(producer, nonce, now)
        else:
            producer.channel.basic_publish(prepared.message, **prepared.options)

    def give(self, producer: Any, nonce: str, now: float) -> None:
        """Give it to a producer, as it was given the first time, under another nonce.

        Args:
            producer: Of kombu.
            nonce: Of this attempt.
            now: Seconds since 1970, from which what is left of its time to live counts.
        """
        options = {**self.options, "headers": {**self.options["headers"], PUBLICATION: nonce}}
        if options.get("expiration") is not None:
            elapsed = max(0.0, now - self.given_at)
            options["expiration"] = max(0.0, options["expiration"] - elapsed)
        producer.publish(self.body, **options)


def task_id_of(body: Any, headers: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return id and name of the task that a message is of; ``None`` if it is of none."""
    fields = body if isinstance(body, Mapping) else headers
    found, task = fields.get("id"), fields.get("task")
    return (found, str(task)) if isinstance(found, str) and task else None
