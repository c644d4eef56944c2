"""The ledger seen from outside: how much it holds, and whether it is paused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._ledger.hash_sentinel import (
    SENTINEL,
    Pause,
    decode_pause,
    decode_sentinel,
)
from celery_safe_leader._operations.target import optional
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["LedgerView", "pause_in_force", "read_ledger"]


@dataclass(frozen=True, slots=True)
class LedgerView:
    """What a ledger holds."""

    entries: int
    """Of which a last run is known."""
    unsettled: int
    """Runs that are claimed: they are on their way, or somebody has to settle them."""
    owner: str
    """Role of the election that may write it; empty if this release can read no ledger there."""
    pause: Pause | None
    """As the ledger says it; it may have run out since."""


def read_ledger(client: redis.Redis, names: LedgerKeys) -> tuple[LedgerView | None, str]:
    """Return what a ledger holds, or ``None`` and Redis's words if the user may not see that.

    Raises:
        StoreError: Redis does not answer, or refuses for another reason.
    """
    return optional(lambda: _read(client, names))


def _read(client: redis.Redis, names: LedgerKeys) -> LedgerView:
    counts, raw = [], None
    for name in (names.pending, names.runs):
        raw = _execute(client, "HGET", name, SENTINEL)
        counts.append(max(0, int(_execute(client, "HLEN", name)) - (raw is not None)))
    raw = raw if isinstance(raw, bytes) else b""
    sentinel = decode_sentinel(raw)
    return LedgerView(counts[1], counts[0], sentinel.owner if sentinel else "", decode_pause(raw))


def pause_in_force(pause: Pause | None, now_us: int | None) -> Pause | None:
    """Return a pause unless it has run out by Redis's clock, if that is known."""
    if pause is not None and pause.until_us and now_us is not None and now_us >= pause.until_us:
        return None
    return pause


def _execute(client: Any, *command: Any) -> Any:
    try:
        return client.execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        raise translate(str(command[1]), exc) from exc
