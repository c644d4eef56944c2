"""Reads a record from outside, without taking part and without writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._core.options import MAX_TTL
from celery_safe_leader._store.codec import shown
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["RecordView", "read_record"]


@dataclass(frozen=True, slots=True)
class RecordView:
    """A record as it was at one moment."""

    holder: str
    """Candidate id; empty for a vacancy. The candidate may be dead."""
    token: str
    """Fencing token."""
    renewal: str
    """Changes with each renewal: a holder that keeps it for longer than the ttl is dead."""
    resigned: bool
    """Whether its holder resigned it."""
    ttl: float
    """Seconds."""
    epoch: str = ""
    """Of the server that wrote it last, as that server's INFO shows it; a label where INFO is
    denied."""

    @property
    def renewed_us(self) -> int | None:
        """When it was written last, in microseconds since 1970; ``None`` if it does not say.

        By the clock of the server that wrote it, ``epoch``.
        """
        digits = self.renewal.rpartition("-")[2]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 18 else None


def read_record(client: redis.Redis, keys: ElectionKeys) -> RecordView | None:
    """Return the record, or ``None`` if there is none. Sends one ``HMGET``, a right of viewers.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    fields = ("holder", "token", "renewal", "resigned", "ttl", "epoch")
    caller: Any = client
    try:
        raw = caller.execute_command("HMGET", keys.lease, *fields)
    except (redis.RedisError, OSError) as exc:
        raise translate(keys.lease, exc) from exc
    if not any(value is not None for value in raw):
        return None
    holder, token, renewal, resigned, ttl, epoch = (
        (value or b"").decode("utf-8", "backslashreplace") for value in raw
    )
    milliseconds = int(ttl[:16]) if ttl.isascii() and ttl.isdigit() else 0
    seconds = min(milliseconds / 1000, MAX_TTL)
    return RecordView(shown(holder), shown(token), renewal, resigned == "1", seconds, epoch)
