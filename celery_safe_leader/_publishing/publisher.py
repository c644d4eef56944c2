"""Gets messages to the broker, and returns what became of each.

Nothing here tries again: whoever publishes decides that, from what the ledger says.

Where the broker can take many messages at once (Redis, kombu 5.7 and later), a group goes out in
one request. Signals and events then behave like this: ``before_task_publish`` is sent when a
message is built, ``after_task_publish`` and task-sent once the whole group has arrived, and not
at all if that is uncertain.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Sequence
from typing import Any

from celery_safe_leader._dispatch.outcomes import (
    BuildError,
    Failed,
    NotSent,
    Outcome,
    Refused,
    Sent,
    Uncertain,
    of_the_rest,
    replace_sent,
)
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._publishing.connection import (
    BatchPublishError,
    broker_errors,
    join_writes,
    open_connection,
    supports_batches,
)
from celery_safe_leader._publishing.declarations import Declarations
from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._publishing.messages import Built, CeleryCall, Message
from celery_safe_leader._publishing.notifications import Notifications

__all__ = ["Publisher"]

_IDLE = 20.0
"""Seconds without use after which a connection is not trusted: firewalls forget, brokers close."""

_LARGEST = 2**20
"""Bytes of the bodies in one request, unless it is of one message."""

_ALL = 2**31
"""More commands than any batch has: kombu must not flush before the tenure was checked."""


class _WithheldError(Exception):
    """Nothing may be written now."""


class Publisher:
    """Publishes for one beat, on a connection of its own that is opened when it is needed.

    Not thread-safe. ``close()`` may be called from a signal handler.

    Args:
        app: The Celery app.
        timeout: Seconds that connecting, a read or a write may take.
        batch_size: How many messages go out in one request.
    """

    def __init__(self, app: Any, *, timeout: float = 5.0, batch_size: int = 500) -> None:
        self._app = app
        self._timeout = timeout
        self._batch_size = batch_size
        self._connection: Any = None
        self._producer: Any = None
        self._owner = 0
        self._used_at = 0.0
        self._returned: list[Exception] = []  # by the broker: they had no queue to go to
        self._errors: tuple[type[BaseException], ...] = ()
        self._message_errors: tuple[type[BaseException], ...] = ()
        self._declarations = Declarations()
        self._notifications = Notifications(app)

    def publish(self, batch: Sequence[Built], may_write: Gate) -> list[Outcome]:
        """Publish messages in order, together where the broker can do that.

        After the connection failed, or nothing may be written any more, no later message is tried.
        An error that the broker has with one message does not keep back the others.

        Args:
            batch: The messages.
            may_write: Called when all is ready, right before each write. It may wait. If it returns
                false, nothing is written.

        Returns:
            One outcome for each message, in the same order.
        """
        outcomes: list[Outcome] = []
        while len(outcomes) < len(batch):
            group = _next_group(batch, len(outcomes), self._batch_size)
            outcomes += self._publish_group(group, may_write)
            if self._ends_all(outcomes[-1]):
                outcomes += [of_the_rest(outcomes[-1])] * (len(batch) - len(outcomes))
        return outcomes

    def forget_declarations(self) -> None:
        """Declare queues anew and on a new connection. For a broker that has lost its data."""
        self._close(politely=True)

    def close(self) -> None:
        """Close the connection. The next use opens another. May be called again."""
        self._close(politely=True)

    def _ends_all(self, outcome: Outcome) -> bool:
        if isinstance(outcome, (Failed, Uncertain)):
            return not isinstance(outcome.error, self._message_errors)
        return isinstance(outcome, NotSent)

    def _publish_group(self, group: Sequence[Built], may_write: Gate) -> list[Outcome]:
        try:
            producer = self._open()
        except Exception as exc:
            self._close()
            return [Failed(exc, reached=False)] * len(group)
        try:
            if len(group) > 1 and supports_batches(producer):
                outcomes = self._flush(producer, group, may_write)
            else:
                outcomes = self._one_by_one(producer, group, may_write)
        except BaseException:
            # Such as SystemExit of a signal handler, between a request and its reply.
            self._close()
            raise
        if all(isinstance(outcome, (Sent, Refused)) for outcome in outcomes):
            self._used_at = time.monotonic()
        else:
            self._close()
        return outcomes

    def _flush(self, producer: Any, group: Sequence[Any], may_write: Gate) -> list[Outcome]:
        """Publish all in one request, or nothing."""
        nonces = [uuid.uuid4().hex for _ in group]
        outcomes: list[Outcome] = [Sent(nonce) for nonce in nonces]
        self._declarations.begin_group()
        try:
            with producer.batch(max_size=_ALL) as pending:
                for index, message in enumerate(group):
                    problem = self._collect(producer, message, nonces[index])
                    if problem:
                        outcomes[index] = Refused(problem)
                join_writes(pending)
                if not may_write():
                    raise _WithheldError
                pending.flush()
        except _WithheldError:
            return replace_sent(outcomes, lambda _: NotSent())
        except BatchPublishError as exc:
            error: BaseException = exc.__cause__ or exc
            return replace_sent(outcomes, lambda sent: Uncertain(error, sent.nonce))
        except self._errors as exc:
            failed = Failed(exc)
            return replace_sent(outcomes, lambda _: failed)
        self._notify(producer, group, outcomes)
        return outcomes

    def _collect(self, producer: Any, message: Message, nonce: str) -> BuildError | None:
        """Add one message to the batch; return what is wrong with it. The others go on."""
        try:
            self._prepare(producer, message)
            self._write(producer, message, nonce)
        except self._errors:
            raise
        except Exception as exc:
            return BuildError.because(message.entry, message.task, exc)
        return None

    def _one_by_one(self, producer: Any, group: Sequence[Built], may_write: Gate) -> list[Outcome]:
        """Publish up to the first that does not arrive; the later ones have no outcome yet."""
        outcomes: list[Outcome] = []
        self._declarations.begin_group()
        for built in group:
            outcomes.append(self._publish_alone(producer, built, may_write))
            if not isinstance(outcomes[-1], (Sent, Refused)):
                break
        self._notify(producer, group, outcomes)
        return outcomes

    def _publish_alone(self, producer: Any, built: Built, may_write: Gate) -> Outcome:
        nonce = uuid.uuid4().hex
        self._returned.clear()
        try:
            if isinstance(built, Message):
                self._prepare(producer, built)
        except self._errors as exc:
            return Failed(exc)
        except Exception as exc:
            return Refused(BuildError.because(built.entry, built.task, exc))
        if not may_write():
            return NotSent()
        try:
            self._write(producer, built, nonce)
        except self._errors as exc:
            return Uncertain(exc, nonce)
        except Exception as exc:
            return Refused(BuildError.because(built.entry, built.task, exc))
        return Failed(self._returned[0]) if self._returned else Sent(nonce)

    def _prepare(self, producer: Any, message: Message) -> None:
        """Do what has to happen on the broker and in the result backend before the write."""
        self._declarations.ensure(producer.channel, message)
        self._notifications.announce(producer, message)

    def _write(self, producer: Any, built: Built, nonce: str) -> None:
        headers = {**built.headers, PUBLICATION: nonce}
        if isinstance(built, CeleryCall):
            self._send(producer, built, headers)
            return
        properties = {**built.properties}
        if built.expires_us is not None:
            properties["expiration"] = built.time_to_live(time.time())
        if built.declare:
            # The queue exists: if the message cannot be routed to it, that is an error. Without
            # a queue of ours (Broadcast, an exchange by name) it may be that nobody listens.
            properties["mandatory"] = True
        producer.publish(
            built.body,
            content_type=built.content_type,
            content_encoding=built.content_encoding,
            exchange=built.exchange,
            routing_key=built.routing_key,
            delivery_mode=built.delivery_mode,
            headers=headers,
            retry=False,
            timeout=self._timeout,
            **properties,
        )

    def _send(self, producer: Any, call: CeleryCall, headers: dict[str, Any]) -> None:
        """Let Celery send a task, as stock beat does."""
        common = {"task_id": call.task_id, "producer": producer, "headers": headers, "retry": False}
        if call.target is None:
            self._app.send_task(call.task, call.args, call.kwargs, **common, **call.options)
        else:
            call.target.apply_async(call.args, call.kwargs, **common, **call.options)

    def _notify(self, producer: Any, group: Sequence[Built], outcomes: Sequence[Outcome]) -> None:
        for built, outcome in zip(group, outcomes, strict=False):
            if isinstance(built, Message) and isinstance(outcome, Sent):
                self._notifications.sent(producer, built, outcome.nonce)

    def _open(self) -> Any:
        idle = time.monotonic() - self._used_at > _IDLE
        if self._producer is not None and self._owner != os.getpid():
            # A fork: the socket is the parent's, too, and must not hear from us.
            self._connection = self._producer = None
        if self._producer is not None and idle:
            self._close(politely=True)
        if self._producer is None:
            self._connection = open_connection(self._app, self._timeout)
            self._errors = broker_errors(self._connection)
            self._message_errors = self._connection.channel_errors
            channel = self._connection.channel()
            if hasattr(channel, "events"):  # AMQP
                channel.events["basic_return"].add(lambda exc, *_: self._returned.append(exc))
            self._producer = self._app.amqp.Producer(channel, auto_declare=False)
            self._owner = os.getpid()
        return self._producer

    def _close(self, *, politely: bool = False) -> None:
        connection, self._connection, self._producer = self._connection, None, None
        self._declarations = Declarations()
        if connection is None:
            return
        try:
            # A broken one is not told: the answer would not come.
            connection.release() if politely else connection.collect()
        except Exception:
            logger.debug("closing the connection to the broker failed", exc_info=True)


def _next_group(batch: Sequence[Built], start: int, size: int) -> Sequence[Built]:
    """Return what can go out together: some messages, or one call.

    Args:
        batch: All messages.
        start: Where the group begins.
        size: How many there may be in it, at least 1.
    """
    end, left = start, _LARGEST
    while end < min(start + size, len(batch)):
        message = batch[end]
        if not isinstance(message, Message):
            break
        left -= len(message.body)
        if left < 0:
            break
        end += 1
    return batch[start : max(end, start + 1)]
