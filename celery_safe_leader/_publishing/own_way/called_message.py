"""A message that Celery's own code gave to a producer, kept as it was given."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._publishing.messages import RelativeTimes
from celery_safe_leader._schedules.moments import SECOND_US, from_datetime

__all__ = ["CalledMessage", "Event", "Prepared", "task_id_of", "times_given"]


_OLD = 1.0
"""Seconds after which times are wrong that count from the publication, and the time to live that
kombu has written."""
_TURN_US = 1_000
"""Microseconds: celery's clock and ours are not read to the same digit."""


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
    """What was given to the producer and is not a task: it follows the message before it."""

    body: Any
    options: dict[str, Any]

    def retold(self, before: Mapping[str, str], after: Mapping[str, str]) -> Event:
        """Return the event with other times, in place of those that it has of its message."""
        if not isinstance(self.body, Mapping):
            return self
        told = {name: text for name, text in after.items() if self.body.get(name) == before[name]}
        return self._replace(body={**self.body, **told})


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
    relative: RelativeTimes | None = None
    """Its times that count from its publication, if it has any."""

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
        return _moment(self._fields.get("expires"))

    @property
    def _fields(self) -> Mapping[str, Any]:
        return self.body if isinstance(self.body, Mapping) else self.options["headers"]

    def counted_from(self, moment_us: int) -> CalledMessage:
        """Return the message as it has to be if it is published at a moment, in microseconds."""
        elapsed = moment_us / SECOND_US - self.given_at
        if self.relative is None or elapsed <= _OLD:
            return self
        moments = self.relative.at(moment_us)
        texts = {name: moment.isoformat() for name, moment in moments.items()}
        body, options = _with_fields(self.body, self.options, texts)
        if options.get("expiration") is not None and "expires" not in texts:
            options["expiration"] = max(0.0, options["expiration"] - elapsed)
        before = {name: self._fields[name] for name in texts}
        return replace(
            self,
            body=body,
            options=options,
            prepared=None,
            events=[each.retold(before, texts) for each in self.events],
            given_at=moment_us / SECOND_US,
        )

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


def times_given(
    times: RelativeTimes, message: CalledMessage, began_us: int
) -> RelativeTimes | None:
    """Return the times of an entry that a message really has; others have set what differs.

    Args:
        times: Given in seconds; they count from the publication.
        message: As Celery's code gave it to the producer.
        began_us: When that code was called.
    """
    given_us = round(message.given_at * SECOND_US)

    def is_given(name: str, seconds: Any) -> bool:
        moment = _moment(message._fields.get(name)) if seconds is not None else None
        if moment is None:
            return False
        counted_us = moment - round(seconds * SECOND_US)
        return bool(began_us - _TURN_US <= counted_us <= given_us + _TURN_US)

    countdown = times.countdown if is_given("eta", times.countdown) else None
    expires = times.expires if is_given("expires", times.expires) else None
    if countdown is None and expires is None:
        return None
    return times._replace(countdown=countdown, expires=expires, due_us=given_us)


def _moment(text: Any) -> int | None:
    if text is None:
        return None
    try:
        return from_datetime(datetime.fromisoformat(str(text)))
    except (TypeError, ValueError):
        return None


def _with_fields(body: Any, options: dict[str, Any], fields: Mapping[str, str]) -> tuple[Any, Any]:
    """Return body and options of a message with other fields; neither is changed."""
    if isinstance(body, Mapping):  # version 1 of the protocol
        return {**body, **fields}, {**options}
    return body, {**options, "headers": {**options["headers"], **fields}}
