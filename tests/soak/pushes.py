"""What MONITOR says of messages that are put into a list."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.celery.chaos import Execution

__all__ = ["PUSHES", "Push", "Pushed", "messages", "read_push"]

PUSHES = ("lpush", "rpush", "lpushx", "rpushx", "linsert")
"""Commands that put something into a list."""

_LINE = re.compile(rb'\+(\d+\.\d+) \[(\d+) ([^\]]*)\] "(\w+)"')
_ARGUMENT = re.compile(rb'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(rb"\\(x[0-9a-f]{2}|.)")
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


@dataclass(frozen=True)
class Push:
    """A command that put values into a list."""

    at: float
    """Seconds since 1970 by the server's clock."""
    database: int
    by: str
    """Address of the client, or ``lua``."""
    key: str
    values: tuple[bytes, ...]


@dataclass(frozen=True)
class Pushed:
    """A message of an entry's run that was put into a list."""

    database: int
    key: str
    restored: bool
    """A worker gave it back: it was published before."""
    run: Execution
    """What its headers say; ``began`` is the moment of the push."""

    @property
    def transactional(self) -> bool:
        """Whether the script that pushed it recorded its run as well."""
        return self.run.publication.startswith("once-")


def read_push(line: bytes) -> Push | None:
    """Read a line of MONITOR, without its end; ``None`` if it does not push."""
    start = _LINE.match(line)
    if start is None or start[4].lower().decode() not in PUSHES:
        return None
    key, *values = (_unescaped(found[1]) for found in _ARGUMENT.finditer(line, start.end()))
    name = key.decode("utf-8", "replace")
    return Push(float(start[1]), int(start[2]), start[3].decode(), name, tuple(values))


def messages(push: Push) -> Iterator[Pushed]:
    """Return the messages of entries among what was pushed."""
    for value in push.values:
        message = _message(push, value)
        if message is not None:
            yield message


def _message(push: Push, value: bytes) -> Pushed | None:
    """Read a message as kombu writes it; ``None`` if it is none of an entry's run."""
    try:
        message: dict[str, Any] = json.loads(value)
        headers, properties = message["headers"], message["properties"]
        covers = headers["leader_covers"]
    except (ValueError, LookupError, TypeError):
        return None
    first, last = map(int, covers.split(","))
    given_back = {**headers, **properties.get("delivery_info", {})}.get("redelivered", False)
    run = Execution(
        json.loads(base64.b64decode(message["body"]))[1]["entry"],
        headers["leader_occurrence"],
        first,
        last,
        headers["leader_publication"],
        int(headers["leader_token"]),
        push.at,
    )
    return Pushed(push.database, push.key, bool(given_back), run)


def _unescaped(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda found: _byte(found[1]), text)


def _byte(escaped: bytes) -> bytes:
    if len(escaped) == 3:
        return bytes([int(escaped[1:], 16)])
    return _LETTERS.get(escaped, escaped)
