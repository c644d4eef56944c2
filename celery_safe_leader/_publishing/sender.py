"""Sends messages to the broker, and returns what became of each.

Where the broker can take many messages at once (Redis, kombu 5.7 and later), a group goes out in
one request.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

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
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.broker_session import BrokerSession
from celery_safe_leader._publishing.connection import (
    BatchPublishError,
    join_writes,
    supports_batches,
)
from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._publishing.messages import Message
from celery_safe_leader._publishing.notifications import Notifications
from celery_safe_leader._publishing.own_way.called_message import CalledMessage

__all__ = ["Built", "MessageSender", "give"]

Built: TypeAlias = Message | CalledMessage | tuple[CalledMessage, ...]
"""What is published for one run."""

_LARGEST = 2**20
"""Bytes of the bodies in one request, unless it is of one message."""

_ALL = 2**31
"""More commands than any batch has: kombu must not flush before the tenure was checked."""


class _WithheldError(Exception):
    """Nothing may be written now."""


class MessageSender:
    """Sends messages by write-ahead: what it is given was claimed.

    Not thread-safe.

    Args:
        session: The connection.
        notifications: Who is told of what was sent.
        timeout: Seconds that a write may take.
        batch_size: How many messages go out in one request.
    """

    def __init__(
        self,
        session: BrokerSession,
        notifications: Notifications,
        *,
        timeout: float,
        batch_size: int,
    ) -> None:
        self._session = session
        self._notifications = notifications
        self._timeout = timeout
        self._batch_size = batch_size

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
            group = self._next_group(batch, len(outcomes))
            outcomes += self._publish_group(group, may_write)
            if self._ends_all(outcomes[-1]):
                outcomes += [of_the_rest(outcomes[-1])] * (len(batch) - len(outcomes))
        return outcomes

    def _ends_all(self, outcome: Outcome) -> bool:
        if isinstance(outcome, (Failed, Uncertain)):
            return self._session.is_broken_by(outcome.error)
        return isinstance(outcome, NotSent)

    def _publish_group(self, group: Sequence[Built], may_write: Gate) -> list[Outcome]:
        try:
            producer = self._session.open()
        except Exception as exc:
            return [Failed(exc, reached=False)] * len(group)
        try:
            if len(group) > 1 and supports_batches(producer):
                outcomes = self._flush(producer, group, may_write)
            else:
                outcomes = self._one_by_one(producer, group, may_write)
        except BaseException:
            # Such as SystemExit of a signal handler, between a request and its reply.
            self._session.close(broken=True)
            raise
        if all(isinstance(outcome, (Sent, Refused)) for outcome in outcomes):
            self._session.note_use()
        else:
            self._session.close(broken=True)
        return outcomes

    def _flush(self, producer: Any, group: Sequence[Any], may_write: Gate) -> list[Outcome]:
        """Publish all in one request, or nothing."""
        nonces = [uuid.uuid4().hex for _ in group]
        outcomes: list[Outcome] = [Sent(nonce) for nonce in nonces]
        self._session.declarations.begin_group()
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
        except self._session.errors as exc:
            failed = Failed(exc)
            return replace_sent(outcomes, lambda _: failed)
        self._notify(producer, group, outcomes)
        return outcomes

    def _collect(self, producer: Any, message: Message, nonce: str) -> BuildError | None:
        """Add one message to the batch; return what is wrong with it. The others go on."""
        try:
            self._session.declarations.ensure(producer.channel, message)
            give(producer, message, nonce, time.time(), self._timeout)
        except self._session.errors:
            raise
        except Exception as exc:
            if self._session.has_lost(producer):
                raise ConnectionResetError("closed while messages were made ready") from exc
            return BuildError.because(message.entry, message.task, exc)
        return None

    def _one_by_one(self, producer: Any, group: Sequence[Built], may_write: Gate) -> list[Outcome]:
        """Publish up to the first that does not arrive; the later ones have no outcome yet."""
        outcomes: list[Outcome] = []
        self._session.declarations.begin_group()
        for built in group:
            if isinstance(built, Message | CalledMessage):
                outcomes.append(self._publish_alone(producer, built, may_write))
            else:
                outcomes.append(self._publish_several(producer, built, may_write))
            if not isinstance(outcomes[-1], (Sent, Refused)):
                break
        self._notify(producer, group, outcomes)
        return outcomes

    def _publish_several(
        self, producer: Any, messages: Sequence[CalledMessage], may_write: Gate
    ) -> Outcome:
        """Publish the messages of one run; what does not arrive is published again with all."""
        refused: Outcome | None = None
        sent: Outcome = NotSent()
        for message in messages:
            outcome = self._publish_alone(producer, message, may_write)
            if isinstance(outcome, Refused):
                logger.error("%s. The other messages of the run are sent", outcome.error)
                refused = outcome
            elif isinstance(outcome, Sent):
                sent = outcome
            else:
                return outcome
        return sent if isinstance(sent, Sent) else refused or sent

    def _publish_alone(
        self, producer: Any, built: Message | CalledMessage, may_write: Gate
    ) -> Outcome:
        nonce = uuid.uuid4().hex
        errors, returned = self._session.errors, self._session.returned
        returned.clear()
        try:
            self._session.declarations.ensure(producer.channel, built)
        except errors as exc:
            return Failed(exc)
        except Exception as exc:
            if self._session.has_lost(producer):
                return Failed(exc)
            return Refused(BuildError.because(built.entry, built.task, exc))
        if not may_write():
            return NotSent()
        try:
            if isinstance(built, CalledMessage):
                built.send(producer, nonce, time.time())
            else:
                give(producer, built, nonce, time.time(), self._timeout)
        except errors as exc:
            return Uncertain(exc, nonce)
        except Exception as exc:
            if self._session.has_lost(producer):
                return Uncertain(exc, nonce)
            return Refused(BuildError.because(built.entry, built.task, exc))
        return Failed(returned[0]) if returned else Sent(nonce)

    def _next_group(self, batch: Sequence[Built], start: int) -> Sequence[Built]:
        """Return what can go out together from ``start`` on: some messages, or one call."""
        end, left = start, _LARGEST
        while end < min(start + self._batch_size, len(batch)):
            message = batch[end]
            if not isinstance(message, Message):
                break
            left -= len(message.body)
            if left < 0:
                break
            end += 1
        return batch[start : max(end, start + 1)]

    def _notify(self, producer: Any, group: Sequence[Built], outcomes: Sequence[Outcome]) -> None:
        for built, outcome in zip(group, outcomes, strict=False):
            if not isinstance(outcome, Sent):
                continue
            if isinstance(built, Message):
                if built.event:
                    self._notifications.send_event(lambda: producer, built)
                continue
            for message in (built,) if isinstance(built, CalledMessage) else built:
                self._notifications.send_events(lambda: producer, message)


def give(producer: Any, message: Message, nonce: str, now: float, timeout: float) -> None:
    """Give a message to a producer, which sends it, or collects it within a batch.

    Args:
        producer: The producer.
        message: It is not changed.
        nonce: Of this attempt.
        now: Seconds since 1970, from which its time to live counts.
        timeout: Seconds that the write may take.
    """
    headers = {**message.headers, PUBLICATION: nonce}
    properties = {**message.properties}
    if message.expires_us is not None:
        properties["expiration"] = message.time_to_live(now)
    if message.declare:
        # The queue exists: if the message cannot be routed to it, that is an error. Without
        # a queue of ours (Broadcast, an exchange by name) it may be that nobody listens.
        properties["mandatory"] = True
    producer.publish(
        message.body,
        content_type=message.content_type,
        content_encoding=message.content_encoding,
        exchange=message.exchange,
        routing_key=message.routing_key,
        delivery_mode=message.delivery_mode,
        headers=headers,
        retry=False,
        timeout=timeout,
        **properties,
    )
