"""Which way a leader's runs take to the broker, noted for people.

Nothing decides by this note: it is not fenced, may be lost, and may be an earlier leader's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import redis

from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["LIFE", "NotedWay", "Way", "note_way", "read_way"]

LIFE = 7 * 24 * 3600
"""Seconds that a note lasts. A leader that leads for longer has to write it again."""
_LONGEST_REASON = 200
"""Bytes of UTF-8."""
_LONGEST_TOKEN = 16
"""Digits: a token is below 2^53."""


class Way(Enum):
    """How the runs of a tenure get to the broker."""

    TRANSACTIONAL = "transactional"
    """Queued by the script that records them; a run that cannot be goes by write-ahead."""
    WRITE_AHEAD = "write-ahead"
    """Claimed in the ledger, published, committed."""


@dataclass(frozen=True, slots=True)
class NotedWay:
    """What a leader noted of its tenure."""

    token: int
    """Fencing token of that tenure."""
    way: Way
    reason: str
    """Why it is this way, for people; may be empty."""


def note_way(client: redis.Redis, keys: ElectionKeys, token: int, way: Way, reason: str) -> None:
    """Note which way the runs of a tenure take. Sends one ``SET``, a right of every candidate.

    Args:
        client: For the Redis that holds the election.
        keys: Of the election that the tenure belongs to.
        token: Fencing token of the tenure.
        way: Of this tenure from now on.
        reason: A clause for people, without secrets. Cut to 200 bytes, in one line.

    Raises:
        StoreUnavailableError: No answer; it may have been noted.
        StoreRefusedError: Redis answered with an error.
    """
    value = f"{token} {way.value} {_clause(reason)}".rstrip()
    _execute(client, keys, "SET", keys.publication, value, "EX", LIFE)


def read_way(client: redis.Redis, keys: ElectionKeys) -> NotedWay | None:
    """Return the last note; ``None`` if there is none, or none that can be read.

    Sends one ``GET``, a right of viewers.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    value = _execute(client, keys, "GET", keys.publication)
    if not isinstance(value, bytes):
        return None
    token, _, rest = value.decode("utf-8", "replace").partition(" ")
    word, _, reason = rest.partition(" ")
    if not (token.isascii() and token.isdigit() and len(token) <= _LONGEST_TOKEN):
        return None
    try:
        return NotedWay(int(token), Way(word), _clause(reason))
    except ValueError:
        return None


def _execute(client: redis.Redis, keys: ElectionKeys, *command: Any) -> Any:
    caller: Any = client
    try:
        return caller.execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        if command[0] == "GET" and "WRONGTYPE" in str(exc):
            return None  # somebody else's value
        raise translate(keys.publication, exc) from exc


def _clause(text: str) -> str:
    """Return any text as one line of at most 200 bytes."""
    line = "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))
    return line.encode("utf-8", "replace")[:_LONGEST_REASON].decode("utf-8", "ignore").rstrip()
