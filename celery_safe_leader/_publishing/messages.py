"""What the messages of periodic tasks are: built, encoded, and not sent yet.

A message that is built can no longer fail for a reason of its own: its arguments are evaluated
and checked, its route is known, its body is encoded. One entry's mistake therefore shows here,
alone, and cannot take a batch with it. How it is built is in ``builder``; how it gets to the
broker, in ``publisher``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from celery_safe_leader._schedules.moments import SECOND_US

__all__ = ["Built", "CeleryCall", "Message"]

_LONGEST_TTL = (2**32 - 1) / 1000
"""Seconds that RabbitMQ accepts; it closes the channel upon more."""


class Message(NamedTuple):
    """A message that is ready for the broker, except for the nonce of the attempt.

    It is never changed: each attempt sends a copy of the headers.
    """

    entry: str
    """Name of the entry."""
    task: str
    """Name of the task."""
    task_id: str
    """Id of the task."""
    headers: Mapping[str, Any]
    """All headers, without the nonce."""
    properties: Mapping[str, Any]
    """Other arguments for kombu's ``Producer.publish``, as Celery gives them."""
    content: Any
    """The body as Python objects, for receivers of Celery's signals."""
    body: bytes
    """The encoded body."""
    content_type: str
    """Type of ``body``."""
    content_encoding: str
    """Encoding of ``body``."""
    exchange: str
    """Name of the exchange; empty for the anonymous one."""
    routing_key: str
    """Routing key."""
    delivery_mode: Any
    """Persistent or transient, as Celery gives it."""
    declare: Sequence[Any]
    """Queues that have to be declared first."""
    expires_us: int | None
    """When it expires, for the time to live that AMQP brokers look at."""
    event: Mapping[str, Any] | None
    """Fields of the event task-sent, if it is to be sent."""

    def time_to_live(self, now: float) -> float | None:
        """Return the seconds for which a broker should keep it, if it expires.

        Args:
            now: Seconds since 1970.
        """
        if self.expires_us is None:
            return None
        left = max(0.0, self.expires_us / SECOND_US - now)
        # For longer ones there is the header, at which workers look.
        return left if left < _LONGEST_TTL else None


class CeleryCall(NamedTuple):
    """A task that Celery, or the task class itself, has to send: see ``reason``.

    Its arguments are evaluated and checked; what else may be wrong with it shows when it is sent.
    """

    entry: str
    """Name of the entry."""
    task: str
    """Name of the task."""
    task_id: str
    """Id of the task."""
    headers: Mapping[str, Any]
    """The user's headers and ours, without the nonce."""
    target: Any
    """The task; ``None`` if it is not registered here."""
    args: Sequence[Any]
    """Evaluated positional arguments."""
    kwargs: Mapping[str, Any]
    """Evaluated keyword arguments."""
    options: Mapping[str, Any]
    """Options of the entry for ``apply_async``, without headers, relative times made absolute."""
    reason: str
    """Why it is not built here."""


Built: TypeAlias = Message | CeleryCall
