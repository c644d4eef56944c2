"""Takes from kombu the commands that it would send for a message.

``Producer.publish`` within ``Producer.batch`` ends in a batch that the channel makes. In its place
stands one of ours that keeps the commands. So which key a message goes to, and what it looks like
there, stays kombu's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery_safe_leader._ledger.publications import Push

__all__ = ["LARGEST", "MessageCollector", "checked", "collecting", "make_collector"]

LARGEST = 128 * 1024
"""Bytes of a message that a script may carry: for the time of a script, Redis does nothing else."""

_MOST_KEYS = 1_000
"""Keys that are remembered."""

_ALL = 2**31
"""More commands than any batch has."""


class MessageCollector:
    """Has the methods of kombu's batches, and sends nothing.

    Args:
        producer: A producer of kombu 5.7, on a channel of its transport for Redis.
        client: The channel's client, which knows its prefix.
    """

    def __init__(self, producer: Any, client: Any) -> None:
        self.producer = producer
        self.channel = producer.channel
        self._basic_publish = self.channel.basic_publish
        self._prefix_args = getattr(client, "_prefix_args", None)
        self._encode = client.connection_pool.get_encoder().encode
        self._keys: dict[tuple[str, Any], bytes] = {}
        self._commands: list[tuple[Any, ...]] = []

    def publish(self, message: Any, **options: Any) -> Any:
        """Keep the commands of a message; called by the producer."""
        self._commands = []  # one that failed half-way may have left some
        return self._basic_publish(message, _publish_batch=self, **options)

    def add(self, *command: Any) -> None:
        """Keep one command; called by the channel."""
        self._commands.append(command)

    def flush(self) -> None:
        """Do nothing; called by the producer."""

    discard = close = flush

    def take(self) -> Push | str:
        """Return what came in since the last call, or why it is not one LPUSH to one list."""
        commands, self._commands = self._commands, []
        if not commands:
            return "it goes to no queue"
        (name, *values), *rest = commands
        if name != "lpush":
            return f"kombu would send {name.upper()}, not LPUSH"
        key, text = values
        expiries = self._expiries(rest) if rest else ()
        if len(expiries) != len(rest):
            return "it goes to more than one queue"
        message = text.encode() if type(text) is str and text.isascii() else self._encode(text)
        return checked(Push(self._key("LPUSH", key), message, expiries))

    def _expiries(self, commands: list[tuple[Any, ...]]) -> tuple[tuple[bytes, int], ...]:
        return tuple(
            (self._key("PEXPIRE", values[0]), int(values[1]))
            for name, *values in commands
            if name == "pexpire"
        )

    def _key(self, command: str, key: Any) -> bytes:
        """Return a key as the client writes it for a command."""
        known = self._keys.get((command, key))
        if known is not None:
            return known
        if len(self._keys) >= _MOST_KEYS:
            self._keys.clear()
        written = self._prefix_args((command, key))[1] if self._prefix_args is not None else key
        encoded: bytes = self._encode(written)
        self._keys[command, key] = encoded
        return encoded


def checked(push: Push) -> Push | str:
    """Return a command, or why a script does not take it."""
    size = len(push.message)
    return push if size <= LARGEST else f"it has {size} bytes, and a script takes {LARGEST}"


def make_collector(producer: Any) -> MessageCollector:
    """Return a collector for a producer, for as long as its channel is open."""
    with producer.channel.conn_or_acquire() as client:
        return MessageCollector(producer, client)


@contextmanager
def collecting(collector: MessageCollector) -> Iterator[None]:
    """Let the collector's producer give it all messages, instead of sending them.

    Only for a producer that gave a trial message to it: see ``eligibility``.
    """
    channel = collector.channel
    channel.create_publish_batch = lambda max_size: collector
    try:
        with collector.producer.batch(max_size=_ALL):
            yield
    finally:
        del channel.create_publish_batch
