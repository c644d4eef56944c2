"""The producer that Celery's own code is given: it keeps messages instead of sending them.

It ends in kombu's ``publish``, with whatever somebody has put around that, on a channel that writes
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from kombu.entity import Queue

from celery_safe_leader._dispatch.outcomes import NotPublishedError
from celery_safe_leader._publishing.headers import OCCURRENCE
from celery_safe_leader._publishing.messages import RelativeTimes
from celery_safe_leader._publishing.own_way.called_message import (
    CalledMessage,
    Event,
    Prepared,
    task_id_of,
    times_given,
)
from celery_safe_leader._schedules.moments import now_us
from celery_safe_leader._schedules.occurrence_id import message_id

__all__ = ["Collection", "make_collecting_producer"]

_POSITIONAL = (
    "routing_key", "delivery_mode", "mandatory", "immediate", "priority", "content_type",
    "content_encoding", "serializer", "headers", "compression", "exchange", "retry",
    "retry_policy", "declare", "expiration", "timeout", "confirm_timeout",
)  # fmt: skip
"""Names of what ``Producer.publish`` takes after the body."""


class Collection:
    """What one call of Celery's code gives to the producer. For the thread of that call.

    Args:
        entry: Name of the entry.
        occurrence: Id of its run.
        headers: Ours, without the nonce.
        timeout: Seconds that a write may take.
        broker_errors: What the broker or the network raises.
        publish: Called with each message; what it raises, Celery's code gets. Without, messages are
            only kept.
        producer: Sends events while messages are published at once.
        times: Of the entry, that count from the publication.
    """

    def __init__(
        self,
        entry: str,
        occurrence: str,
        headers: Mapping[str, Any],
        timeout: float,
        broker_errors: tuple[type[BaseException], ...],
        publish: Callable[[CalledMessage], None] | None = None,
        producer: Any = None,
        times: RelativeTimes | None = None,
    ) -> None:
        self.entry = entry
        self._occurrence = occurrence
        self._headers = headers
        self._timeout = timeout
        self._broker_errors = broker_errors
        self._publish = publish
        self._producer = producer
        self._times = times
        self._began_us = now_us()
        self.messages: list[CalledMessage] = []
        self.broker_error: BaseException | None = None
        """What the broker raised while a message was made."""
        self.error: BaseException | None = None
        """What sending it raised."""

    def add(self, body: Any, args: tuple[Any, ...], options: dict[str, Any], make: Any) -> None:
        """Accept what was given to the producer; ``make`` lets kombu make a message of it."""
        options = {**dict(zip(_POSITIONAL, args, strict=False)), **options}
        found = task_id_of(body, options.get("headers") or {})
        if found is None:
            self._follow(Event(body, options))
            return
        message = self._message(body, options, *found)
        try:
            message.prepared = make(message.body, message.options)
        except self._broker_errors as exc:
            self.broker_error = exc
            raise
        if message.prepared is None:
            return  # something around kombu's publish has kept it from being written
        self.messages.append(message)
        if self._publish is not None:
            self._publish(message)

    def _follow(self, event: Event) -> None:
        if self._publish is not None and self._producer is not None:
            self._producer.publish(event.body, **{**event.options, "retry": False})
        elif self.messages:
            self.messages[-1].events.append(event)

    def _message(
        self, body: Any, options: dict[str, Any], task_id: str, task: str
    ) -> CalledMessage:
        """Return a message with our headers; the dictionaries that receivers know stay theirs."""
        given = options.get("headers") or {}
        headers = {name: _own(value) for name, value in given.items()}
        headers |= self._headers
        options = {**options, "headers": headers, "retry": False}
        if self.messages:
            own = message_id(self._occurrence, len(self.messages) + 1)
            body, options = _renamed(body, options, task_id, own)
            task_id = own
        if options.get("timeout") is None:
            options["timeout"] = self._timeout
        message = CalledMessage(self.entry, task, task_id, body, options)
        if self._times is not None:
            message.relative = times_given(self._times, message, self._began_us)
        if message.declare:
            # The queue exists: if the message cannot be routed to it, that is an error.
            options["mandatory"] = True
        return message


def _own(value: Any) -> Any:
    """Return a value that stays as it is if a receiver goes on with the same one at the next run.

    Stock beat has written the message by then; here it may have to wait.
    """
    if not value or type(value) not in (dict, list, set):
        return value
    try:
        return deepcopy(value)
    except Exception:
        return value  # making the message says what is wrong with it


def _renamed(
    body: Any, options: dict[str, Any], before: str, own: str
) -> tuple[Any, dict[str, Any]]:
    headers = {**options["headers"], OCCURRENCE: own}
    if isinstance(body, Mapping):  # protocol 1
        body = {**body, "id": own}
    else:
        headers["id"] = own
    if headers.get("root_id") == before:
        headers["root_id"] = own
    options = {**options, "headers": headers}
    if options.get("correlation_id") == before:
        options["correlation_id"] = own
    return body, options


class _SilentChannel:
    """A channel that keeps what is to be written, and passes on all else."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self.kept: Prepared | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def basic_publish(self, message: Any, **options: Any) -> None:
        """Keep a message."""
        self.kept = Prepared(message, options)


class _BoundQueues:
    """Queues as they are once they are bound to a channel.

    kombu binds a copy of each queue for each message, though the queue was declared long ago, and
    throws the copy away. That was nearly a tenth of what a run took.
    """

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._known: dict[str, tuple[Any, Any]] = {}

    def of(self, entity: Any) -> Any:
        """Return a queue bound; what is something else, has no name yet or is bound, as it is."""
        is_queue = type(entity) is Queue
        if not is_queue or not entity.name or entity.is_bound:
            return entity
        known = self._known.get(entity.name)
        if known is None or known[0] is not entity:
            known = self._known[entity.name] = (entity, entity.bind(self._channel))
        return known[1]


def make_collecting_producer(kind: Any, channel: Any) -> Any:
    """Return a producer whose attribute ``collection`` takes in what it is given.

    Args:
        kind: The class of producers to derive it from.
        channel: Of the broker.
    """

    class CollectingProducer(kind):
        collection: Collection | None = None

        def publish(self, body: Any, *args: Any, **options: Any) -> None:
            """Keep a message."""
            collection = self.collection
            if collection is None:
                raise NotPublishedError("?", "its producer was used after its call had returned")
            collection.add(body, args, options, self._make)

        def _make(self, body: Any, options: dict[str, Any]) -> Prepared | None:
            silent.kept = None
            given = {**options, "headers": {**options["headers"]}}
            if given.get("declare"):
                given["declare"] = [bound.of(each) for each in given["declare"]]
            super().publish(body, **given)
            return silent.kept

    silent = _SilentChannel(channel)
    bound = _BoundQueues(silent)
    return CollectingProducer(silent, auto_declare=False)
