"""Calls of the scheduler's ``apply_entry``, as stock beat makes them, and what comes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from celery.beat import SchedulingError
from kombu.exceptions import OperationalError

from celery_safe_leader._dispatch.outcomes import BuildError, Called, NotPublishedError
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._publishing.broker_session import BrokerSession
from celery_safe_leader._publishing.headers import leader_headers
from celery_safe_leader._publishing.messages import RelativeTimes
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.own_way.collecting_producer import (
    Collection,
    make_collecting_producer,
)

__all__ = ["CelerysCalls", "note_error", "present_producer"]

_producer: ContextVar[Any] = ContextVar("leader_producer", default=None)


def present_producer() -> Any:
    """Return the producer that the code which is called now was given; ``None`` outside of one."""
    return _producer.get()


def note_error(error: BaseException) -> None:
    """Note what sending the present run raised, before ``apply_entry`` swallows it."""
    producer = _producer.get()
    if producer is not None and producer.collection is not None:
        is_wrapped = isinstance(error, SchedulingError) and error.__context__ is not None
        producer.collection.error = error.__context__ if is_wrapped else error


class CelerysCalls:
    """Lets Celery's own code send runs, on the publisher's connection. For one call at a time.

    Args:
        scheduler: Its ``apply_entry`` is called.
        key: Of the ledger; it is named in the headers.
        session: The connection.
        timeout: Seconds that a write may take.
    """

    def __init__(self, scheduler: Any, key: str, session: BrokerSession, timeout: float) -> None:
        self._scheduler = scheduler
        self._key = key
        self._session = session
        self._timeout = timeout
        self._sender: Any = None
        self._collecting: Any = None

    def call(
        self,
        source: Any,
        claim: Claim,
        token: int,
        publish: Callable[[CalledMessage], None] | None,
        more: Mapping[str, Any] = MappingProxyType({}),
        times: RelativeTimes | None = None,
    ) -> Called:
        """Call ``apply_entry`` for a run, in the context that is current.

        Args:
            source: The ``ScheduleEntry``; not changed.
            claim: The run.
            token: Fencing token of the leader that publishes it.
            publish: Called with each message; what it raises, Celery's code gets. Without, they are
                only returned.
            more: Options in place of the entry's.
            times: Of the entry, that count from the publication.
        """
        sender = self._session.open(may_be_idle=True)
        producer = self._producer_for(sender)
        headers = leader_headers(self._key, claim.occurrence, token, (claim.first, claim.moment))
        collection = Collection(
            claim.entry,
            claim.occurrence,
            headers,
            self._timeout,
            self._session.errors,
            publish,
            sender,
            times,
        )
        producer.collection = collection
        before = _producer.set(producer)
        try:
            self._scheduler.apply_entry(_copy(source, claim.occurrence, more), producer=producer)
        except Exception as exc:
            collection.error = exc
        finally:
            _producer.reset(before)
            producer.collection = None
        return _outcome(collection, source)

    def _producer_for(self, sender: Any) -> Any:
        if self._sender is not sender:
            self._sender = sender
            self._collecting = make_collecting_producer(self._scheduler.Producer, sender.channel)
        return self._collecting


def _outcome(collection: Collection, source: Any) -> Called:
    error = collection.error
    if collection.broker_error is not None:
        return Called((), trouble=collection.broker_error, is_broker=True)
    if collection.messages or error is None or isinstance(error, NotPublishedError):
        return Called(collection.messages)
    if isinstance(error, OperationalError):
        return Called((), trouble=error)
    return Called((), BuildError.of(collection.entry, source, error))


def _copy(entry: Any, task_id: str, more: Mapping[str, Any]) -> Any:
    """Return a copy of an entry, with options and headers of its own."""
    options = {**(entry.options or {}), **more, "task_id": task_id}
    options.pop("leader", None)  # ours
    options["headers"] = {**(options.get("headers") or {})}
    # Neither copy.copy(), which calls constructors that differ, nor the class's own next().
    copy = object.__new__(type(entry))
    copy.__dict__.update(vars(entry))
    copy.options = options  # which may be a property of its class
    return copy
