"""What the messages of periodic tasks are: built, encoded, and not sent yet.

A message that is built can no longer fail for a reason of its own: its arguments are evaluated
and checked, its route is known, its body is encoded. One entry's mistake therefore shows here,
alone, and cannot take a batch with it. How it is built is in ``builder``; how it gets to the
broker, in ``publisher``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any, NamedTuple

from celery_safe_leader._schedules.moments import SECOND_US, from_datetime, to_datetime

__all__ = ["Message", "RelativeTimes", "counted_from", "expired_for"]

_LONGEST_TTL = (2**32 - 1) / 1000
"""Seconds that RabbitMQ accepts; it closes the channel upon more."""


class RelativeTimes(NamedTuple):
    """Times of an entry that count from its publication, in seconds; ``None`` if not so given."""

    countdown: Any
    expires: Any
    due_us: int
    """The due moment: as it was built, the message counts from this one."""
    zone: tzinfo
    """In which they are written."""

    def at(self, moment_us: int) -> dict[str, datetime]:
        """Return them as moments, named ``eta`` and ``expires``."""
        named = {"eta": self.countdown, "expires": self.expires}
        return {
            name: (to_datetime(moment_us) + timedelta(seconds=seconds)).astimezone(self.zone)
            for name, seconds in named.items()
            if seconds is not None
        }


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
    relative: RelativeTimes | None = None
    """Its times that count from its publication, if it has any."""
    common: Message | None = None
    """What it shares with all messages of the same task and options, if that is known."""

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


def counted_from(built: Message, moment_us: int) -> Message:
    """Return a message as it has to be if it is published at a moment, in microseconds."""
    if built.relative is None or moment_us <= built.relative.due_us:
        return built
    moments = built.relative.at(moment_us)
    texts = {name: moment.isoformat() for name, moment in moments.items()}
    expires = moments.get("expires")
    return built._replace(
        headers={**built.headers, **texts},
        event=built.event and {**built.event, **texts},
        expires_us=built.expires_us if expires is None else from_datetime(expires),
    )


def expired_for(expires_us: int | None, moment_us: int) -> float | None:
    """Return for how many seconds what expires is expired at a moment; ``None`` if it is not."""
    if expires_us is None or expires_us > moment_us:
        return None
    return (moment_us - expires_us) / SECOND_US
