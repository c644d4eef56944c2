"""Reading a whole ledger, in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis

from celery_safe_leader._ledger.codec import (
    SENTINEL,
    Claim,
    LastRun,
    UnreadableValueError,
    decode_claim,
    decode_entry,
    decode_run,
)
from celery_safe_leader._ledger.results import Snapshot
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["LoadedHashes", "load_hashes"]

_PIECE = 150
"""Fields asked for at a time, so that one command stays below 0.3 ms."""

_Value = TypeVar("_Value")


@dataclass(slots=True)
class LoadedHashes:
    """What the hashes hold, before it is checked against the clock."""

    runs: dict[str, LastRun] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    unreadable: dict[str, bytes] = field(default_factory=dict)

    def snapshot(self, now: int, slack_us: int) -> Snapshot:
        """Return it with the claims sorted, and what lies ahead of Redis's clock named."""
        done = {
            entry: claim
            for entry, claim in self.claims.items()
            if entry in self.runs and claim.moment <= self.runs[entry].moment
        }
        pending = {entry: claim for entry, claim in self.claims.items() if entry not in done}
        limit = now + slack_us
        ahead = {entry for entry, run in self.runs.items() if run.moment > limit}
        ahead |= {entry for entry, claim in pending.items() if claim.moment > limit}
        unreadable = self.unreadable
        return Snapshot(self.runs, pending, done, self.unknown, frozenset(ahead), unreadable, now)


def load_hashes(client: redis.Redis, names: LedgerKeys) -> LoadedHashes:
    """Return the runs, claims and marks in Redis.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    loaded = LoadedHashes()
    try:
        _scan(client, names.runs, lambda _, raw: decode_run(raw), loaded.runs, loaded)
        _scan(client, names.pending, decode_claim, loaded.claims, loaded)
        _scan(client, names.unknown, lambda _, raw: _moment(raw), loaded.unknown, loaded)
    except (redis.RedisError, OSError) as exc:
        raise translate(names.runs, exc) from exc
    return loaded


def _moment(raw: bytes) -> int:
    # A mark that cannot be read is written anew, so it counts as made now: never too early.
    return int(raw) if raw.isdigit() and len(raw) <= 16 else 2**53


def _scan(
    client: Any,  # redis.Redis: its scan has no usable annotations
    name: str,
    decode: Callable[[str, bytes], _Value],
    into: dict[str, _Value],
    loaded: LoadedHashes,
) -> None:
    cursor = 0
    while True:
        cursor, piece = client.hscan(name, cursor, count=_PIECE)
        for field_name, raw in piece.items():
            if field_name == SENTINEL:
                continue
            try:
                entry = decode_entry(field_name)
            except UnicodeDecodeError:
                # No entry can have this name, so nobody waits for it; but somebody should know.
                loaded.unreadable[field_name.decode("utf-8", "backslashreplace")] = raw
                continue
            try:
                into[entry] = decode(entry, raw)
            except UnreadableValueError:
                loaded.unreadable[entry] = raw
        if cursor == 0:
            return
