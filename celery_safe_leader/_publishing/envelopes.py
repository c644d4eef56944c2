"""What kombu writes around messages that are alike but for a few strings.

Kombu makes an envelope once: of a message with marks in the place of what differs. The messages
of all entries with the same task and options then fill it in, which takes a third of the time. So
what a message looks like stays kombu's business. The message that an envelope is first made for
comes from kombu as well, and is compared: if one byte differs, the envelope is not used.

Who has put a function of theirs into kombu expects it to be called for each message: see
``eligibility.writes_alike``.
"""

from __future__ import annotations

import json
import secrets
from base64 import b64encode
from json.encoder import encode_basestring_ascii
from typing import Any

from celery_safe_leader._ledger.publications import Push
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._publishing.collector import MessageCollector
from celery_safe_leader._publishing.headers import PUBLICATION
from celery_safe_leader._publishing.messages import Message
from celery_safe_leader._publishing.sender import give

__all__ = ["Envelopes"]

_MOST = 1_000
"""Where each entry has options of its own, nothing is gained by keeping more."""
_ENOUGH = 3
"""Messages that are alike, after which an envelope is made: one costs as much as three messages. So
where more entries than are kept have options of their own, none is made for any."""

# Names of what is not a header, which no header has.
_BODY, _CORRELATION_ID, _DELIVERY_TAG = "\0body", "\0correlation_id", "\0delivery_tag"


class Envelopes:
    """The envelopes of one connection. Not thread-safe.

    Args:
        collector: Of the connection's producer. Used within ``collecting``.
        timeout: Seconds, as kombu's producer takes it.
    """

    def __init__(self, collector: MessageCollector, timeout: float) -> None:
        self.collector = collector
        self._timeout = timeout
        self._alike: dict[int, _Alike] = {}

    def fill(self, message: Message, nonce: str) -> Push | None:
        """Return the command for a message; ``None`` if kombu has to make it.

        Args:
            message: The message.
            nonce: Of this attempt.
        """
        alike = self._known(_shared_by(message))
        if alike is None or alike.envelope is None:
            return None
        return alike.envelope.fill(message, nonce, self.collector.channel._next_delivery_tag())

    def learn(self, message: Message, nonce: str, push: Push) -> None:
        """Make the envelope for the messages that are like one, once there were enough of them.

        Args:
            message: The message.
            nonce: Of the attempt.
            push: The command that kombu has made for it.
        """
        common = _shared_by(message)
        if common is None:
            return
        alike = self._known(common)
        if alike is None:
            if len(self._alike) >= _MOST:
                self._alike.clear()
            # Named by its address, which is its own as long as it is kept here.
            alike = self._alike[id(common)] = _Alike(common)
        alike.made += 1
        if alike.made != _ENOUGH:
            return
        try:
            alike.envelope = self._make(message, nonce, push)
        except Exception:
            # The message itself is there. If the connection is lost, the next one will tell.
            logger.debug("no envelope for messages like that of %r", message.entry, exc_info=True)

    def _known(self, common: Message | None) -> _Alike | None:
        alike = self._alike.get(id(common))
        return alike if alike is not None and alike.common is common else None

    def _make(self, message: Message, nonce: str, push: Push) -> _Envelope | None:
        common: Any = message.common
        own = [name for name in message.headers if name not in common.headers]
        marks = {name: secrets.token_hex(16) for name in (*own, PUBLICATION, _CORRELATION_ID)}
        body = secrets.token_bytes(24)
        marked = message._replace(
            headers={name: marks.get(name, value) for name, value in message.headers.items()},
            properties={**message.properties, "correlation_id": marks[_CORRELATION_ID]},
            body=body,
        )
        give(self.collector.producer, marked, marks[PUBLICATION], 0.0, self._timeout)
        found = self.collector.take()
        if not isinstance(found, Push) or not found.message.isascii():
            return None
        text = found.message.decode()
        marks |= {_BODY: b64encode(body).decode(), _DELIVERY_TAG: _tag_of(text)}
        envelope = _Envelope.of(found, text, marks, tuple(message.headers))
        if envelope is None:
            return None
        same = envelope.fill(message, nonce, _tag_of(push.message))
        return envelope if same == push else None


class _Alike:
    """What is known of messages that are alike."""

    __slots__ = ("common", "envelope", "made")

    def __init__(self, common: Message) -> None:
        self.common = common
        self.made = 0  # by kombu
        self.envelope: _Envelope | None = None


class _Envelope:
    """A message with gaps."""

    __slots__ = ("_form", "_gaps", "_names", "_push")

    def __init__(self, push: Push, form: str, gaps: list[str], names: tuple[str, ...]) -> None:
        self._push = push
        self._form = form
        self._gaps = gaps
        self._names = names

    @classmethod
    def of(
        cls, push: Push, text: str, marks: dict[str, str], names: tuple[str, ...]
    ) -> _Envelope | None:
        """Return a message with gaps for marks; ``None`` unless each is there once."""
        places = []
        for name, mark in marks.items():
            quoted = f'"{mark}"'
            if text.count(quoted) != 1:
                return None
            start = text.index(quoted)
            places.append((start, start + len(quoted), name))
        places.sort()
        starts = [start for start, _, _ in places]
        ends = [end for _, end, _ in places]
        parts = [text[a:b] for a, b in zip([0, *ends], [*starts, None], strict=True)]
        gaps = [name for _, _, name in places]
        return cls(push, "%s".join(part.replace("%", "%%") for part in parts), gaps, names)

    def fill(self, message: Message, nonce: str, delivery_tag: str) -> Push | None:
        """Return the command for a message; ``None`` if it does not fit."""
        headers = message.headers
        if tuple(headers) != self._names:
            return None
        values = {
            **headers,
            PUBLICATION: nonce,
            _BODY: b64encode(message.body).decode(),
            _CORRELATION_ID: message.properties["correlation_id"],
            _DELIVERY_TAG: delivery_tag,
        }
        filled = []
        for name in self._gaps:
            value = values[name]
            if type(value) is str:
                filled.append(encode_basestring_ascii(value))
            elif type(value) is int:
                filled.append(str(value))
            else:
                return None
        text = self._form % tuple(filled)
        return Push(self._push.queue, text.encode(), self._push.expiries)


def _shared_by(message: Message) -> Message | None:
    """Return what a message has in common with others, if an envelope might do for all of them."""
    is_alike = not message.exchange and message.expires_us is None
    return message.common if is_alike else None


def _tag_of(text: str | bytes) -> str:
    tag: str = json.loads(text)["properties"]["delivery_tag"]
    return tag
