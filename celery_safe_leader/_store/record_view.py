"""Look at a record from outside, without taking part and without writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._core.options import MAX_TTL
from celery_safe_leader._store.codec import shown
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["Sighting", "look"]


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record as it stood at one moment."""

    holder: str
    """Candidate id, empty for a vacancy; may be dead."""
    token: str
    """Fencing token."""
    renewal: str
    """Changes with each renewal: a record that keeps it for longer than the ttl is dead."""
    resigned: bool
    """Its holder gave it up."""
    ttl: float
    """Seconds."""


def look(client: redis.Redis, keys: ElectionKeys) -> Sighting | None:
    """Read a record: one command, ``HMGET``, of which a read-only user may have the right.

    Returns:
        What stands there; ``None`` if there is no record.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    fields = ("holder", "token", "renewal", "resigned", "ttl")
    caller: Any = client
    try:
        raw = caller.execute_command("HMGET", keys.lease, *fields)
    except (redis.RedisError, OSError) as exc:
        raise translate(keys.lease, exc) from exc
    if not any(value is not None for value in raw):
        return None
    holder, token, renewal, resigned, ttl = (
        (value or b"").decode("utf-8", "backslashreplace") for value in raw
    )
    milliseconds = int(ttl[:16]) if ttl.isascii() and ttl.isdigit() else 0
    seconds = min(milliseconds / 1000, MAX_TTL)
    return Sighting(shown(holder), shown(token), renewal, resigned == "1", seconds)
