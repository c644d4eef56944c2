"""Gets messages to the broker, or has them ready for the script that records their runs.

Nothing here tries again: whoever publishes decides that, from what the ledger says.

The event task-sent is sent once all that went out together has arrived, and not at all if that is
uncertain. For messages that are collected, not sent, whoever has them sent says when they have
arrived: see ``notify``. Celery's signals are not sent here: where somebody listens to them,
Celery's own code sends them, around what it gives to a producer (``own_way``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from celery_safe_leader._dispatch.outcomes import (
    BuildError,
    Collected,
    Failed,
    NotPlain,
    Outcome,
    Refused,
)
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._ledger.publications import Push
from celery_safe_leader._publishing.broker_session import BrokerSession
from celery_safe_leader._publishing.collector import (
    LARGEST,
    MessageCollector,
    checked,
    collecting,
)
from celery_safe_leader._publishing.eligibility import why_not_connecting, writes_alike
from celery_safe_leader._publishing.envelopes import Envelopes
from celery_safe_leader._publishing.headers import ONCE
from celery_safe_leader._publishing.messages import Message, counted_from, expired_for
from celery_safe_leader._publishing.notifications import Notifications
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.sender import Built, MessageSender, give
from celery_safe_leader._schedules.moments import SECOND_US

__all__ = ["Publisher"]

_Collection: TypeAlias = Collected | NotPlain | Refused | Failed


_MANY = 8
"""So many messages are worth an envelope."""


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
        self.timeout = timeout
        """Seconds that connecting, a read or a write may take."""
        self.session = BrokerSession(app, timeout)
        """The connection."""
        self._notifications = Notifications(app)
        self._sender = MessageSender(
            self.session, self._notifications, timeout=timeout, batch_size=batch_size
        )
        self._never: str | None = None
        self._envelopes: Envelopes | None = None

    @property
    def connection_number(self) -> int:
        """Changes with each new connection to the broker; 0 before the first."""
        return self.session.number

    def connect(self) -> None:
        """Open the connection if there is none; raise what that raises."""
        self.session.open()

    def leave_connection(self) -> Callable[[], None]:
        """Leave the connection to a call that uses it still. The next use opens another.

        Returns:
            What closes it, for when that call has returned.
        """
        return self.session.abandon()

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
        return self._sender.publish(batch, may_write)

    def counted_from(self, message: Built, moment_us: int) -> Built:
        """Return a message with times that count from a moment, if they count from publication."""
        if isinstance(message, Message):
            return counted_from(message, moment_us)
        if isinstance(message, CalledMessage):
            return message.counted_from(moment_us)
        return tuple(each.counted_from(moment_us) for each in message)

    def expired_for(self, message: Built, moment_us: int) -> float | None:
        """Return for how many seconds a message is expired at a moment; ``None`` if it is not."""
        first = message if isinstance(message, Message | CalledMessage) else message[0]
        return expired_for(first.expires_us, moment_us)

    def why_not_transactional(self) -> str:
        """Return why no script can publish on this broker; empty if one might.

        Whether the script's Redis is the broker, no URL tells: see ``leave_probe``.

        Returns:
            A clause for people, without secrets.

        Raises:
            Exception: What connecting raises.
        """
        collector = self._collector(may_be_idle=True)
        return collector if isinstance(collector, str) else ""

    def leave_probe(self, key: str, value: str, seconds: int) -> str:
        """Write a value on the Redis that the connection leads to, without any prefix.

        Only for a broker against which ``why_not_transactional`` has nothing.

        Args:
            key: The key, as it is.
            value: The value.
            seconds: How long it is kept.

        Returns:
            The server's ``run_id``; empty where INFO is denied.

        Raises:
            Exception: What connecting raises, and what redis-py raises. The next use connects anew.
        """
        return self.session.leave_value(key, value, seconds)

    def collect(self, batch: Sequence[Built], at_us: Sequence[int]) -> list[_Collection]:
        """Return what a script has to write for each message. Nothing is sent.

        Done in memory, but for queues that were not declared yet, and exchanges. Another attempt
        at a message needs another call.

        Args:
            batch: The messages.
            at_us: For each, the moment in microseconds from which its time to live counts.

        Returns:
            One outcome for each message, in the same order.
        """
        session = self.session
        in_memory = self._are_known(batch)
        try:
            collector = self._collector(may_be_idle=in_memory)
        except Exception as exc:
            return [Failed(exc, reached=False)] * len(batch)
        if isinstance(collector, str):
            return [NotPlain(collector)] * len(batch)
        try:
            collected = self._collect(collector, batch, at_us)
        except BaseException:
            # Such as SystemExit of a signal handler, between a request and its reply.
            session.close(broken=True)
            raise
        if collected and self._is_broken_by(collected[-1]):
            session.close(broken=True)
        elif not in_memory:
            session.note_use()
        return collected

    def notify(self, published: Sequence[tuple[Any, str]]) -> None:
        """Send the events of messages that have arrived.

        Args:
            published: Messages that were collected, each with its nonce.
        """
        for message, _ in published:
            if isinstance(message, CalledMessage):
                self._notifications.send_events(self.session.open, message)
            elif message.event:
                self._notifications.send_event(self.session.open, message)

    def refuses(self, message: Built, error: BaseException) -> str:
        """Return what refused a message, in words; empty if the connection is at fault.

        Args:
            message: The message.
            error: What publishing it ended with.
        """
        if self.session.is_broken_by(error):
            return ""
        first = message if isinstance(message, Message | CalledMessage) else message[0]
        if first.exchange:
            return f"exchange {first.exchange!r} with routing key {first.routing_key!r}"
        return f"queue {first.routing_key!r}"

    def forget_declarations(self) -> None:
        """Declare queues anew and on a new connection. For a broker that has lost its data."""
        self.session.close()

    def close(self) -> None:
        """Close the connection. The next use opens another. May be called again."""
        self.session.close()

    def _collector(self, *, may_be_idle: bool) -> MessageCollector | str:
        """Connect, and return what collects messages, or why they cannot be collected."""
        if self._never is None:
            with self._app.connection_for_write() as connection:
                self._never = why_not_connecting(connection)
        if self._never:
            return self._never
        self.session.open(may_be_idle=may_be_idle)
        return self.session.collector()

    def _are_known(self, batch: Sequence[Built]) -> bool:
        """Return whether messages can be collected without asking the broker anything."""
        are_known = self.session.declarations.are_known
        for built in batch:
            if isinstance(built, Message | CalledMessage) and not are_known(built):
                return False
        return True

    def _collect(
        self, collector: MessageCollector, batch: Sequence[Built], at_us: Sequence[int]
    ) -> list[_Collection]:
        outcomes: list[_Collection] = []
        self.session.declarations.begin_group()
        if self._envelopes is None or self._envelopes.collector is not collector:
            self._envelopes = Envelopes(collector, self.timeout)
        # For a few messages the look at kombu would cost more than it saves.
        filled = len(batch) >= _MANY and writes_alike(collector.producer)
        envelopes = self._envelopes if filled else None
        with collecting(collector):
            for built, moment, nonce in zip(batch, at_us, _nonces(len(batch)), strict=True):
                found = self._collect_one(collector, envelopes, built, moment, nonce)
                outcomes.append(found)
                if self._is_broken_by(found):
                    return outcomes + [found] * (len(batch) - len(outcomes))
        return outcomes

    def _collect_one(
        self,
        collector: MessageCollector,
        envelopes: Envelopes | None,
        built: Built,
        at_us: int,
        nonce: str,
    ) -> _Collection:
        if isinstance(built, tuple) and not isinstance(built, Message):
            return NotPlain("its run is sent as several messages")
        if isinstance(built, Message) and len(built.body) > LARGEST:
            return NotPlain(f"its body has {len(built.body)} bytes, and a script takes {LARGEST}")
        try:
            self.session.declarations.ensure(collector.channel, built)
            found = self._make(collector, envelopes, built, at_us / SECOND_US, nonce)
        except self.session.errors as exc:
            return Failed(exc)
        except Exception as exc:
            if self.session.has_lost(collector.producer):
                return Failed(exc)
            return Refused(BuildError.because(built.entry, built.task, exc))
        return NotPlain(found) if isinstance(found, str) else Collected(found, nonce)

    def _make(
        self,
        collector: MessageCollector,
        envelopes: Envelopes | None,
        built: Message | CalledMessage,
        now: float,
        nonce: str,
    ) -> Push | str:
        """Return the command for a message, or why a script does not take it."""
        if isinstance(built, CalledMessage):
            built.collect(collector, nonce, now)
            return collector.take()
        filled = envelopes.fill(built, nonce) if envelopes is not None else None
        if filled is not None:
            return checked(filled)
        give(collector.producer, built, nonce, now, self.timeout)
        found = collector.take()
        if envelopes is not None and isinstance(found, Push):
            envelopes.learn(built, nonce, found)
        return found

    def _is_broken_by(self, outcome: _Collection) -> bool:
        return isinstance(outcome, Failed) and self.session.is_broken_by(outcome.error)


def _nonces(count: int) -> list[str]:
    """Return so many nonces, from one call for random bytes, which is most of what each costs."""
    digits = secrets.token_hex(16 * count)
    return [f"{ONCE}{digits[start : start + 32]}" for start in range(0, len(digits), 32)]
