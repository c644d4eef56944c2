"""Reading a ledger as its leader: all of it, or some of its entries, in pieces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import redis

from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    UnreadableValueError,
    decode_claim,
    decode_entry,
    decode_run,
    encode_entry,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL, decode_pause
from celery_safe_leader._ledger.results import Snapshot
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import LedgerKeys

__all__ = [
    "PIECE",
    "Glance",
    "LoadedHashes",
    "decode_fields",
    "glance",
    "load_entries",
    "load_hashes",
    "load_unknown",
    "read_entries",
    "read_unknown",
]

PIECE = 150
"""Fields asked for at a time, so that one command stays below 0.3 ms."""

_Value = TypeVar("_Value")


@dataclass(slots=True)
class LoadedHashes:
    """What the hashes hold, before it is checked against the clock."""

    runs: dict[str, LastRun] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
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
        return Snapshot(self.runs, pending, done, frozenset(ahead), self.unreadable, now)


@dataclass
class Glance:
    """What stands in the ledger of a few entries. Nothing guards it: it may change at once."""

    is_paused: bool
    """Whether the sentinel says so; the pause may be over by Redis's clock."""
    entries: dict[str, tuple[LastRun | None, Claim | None]] = field(default_factory=dict)
    """Run and claim of each; without those that cannot be read."""


def load_hashes(client: Any, names: LedgerKeys) -> LoadedHashes:
    """Return the runs and claims in Redis.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    loaded = LoadedHashes()
    try:
        # In this order: what is committed in between is found twice, and not missed.
        _scan(client, names.pending, decode_claim, loaded.claims, loaded.unreadable)
        _scan(client, names.runs, _decode_run, loaded.runs, loaded.unreadable)
    except (redis.RedisError, OSError) as exc:
        raise translate(names.runs, exc) from exc
    return loaded


def load_entries(
    client: Any,  # redis.Redis: its hmget has no usable annotations
    names: LedgerKeys,
    entries: Collection[str],
) -> LoadedHashes:
    """Return all claims in Redis, and the runs of these entries and of those that have a claim.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    loaded = LoadedHashes()
    try:
        _scan(client, names.pending, decode_claim, loaded.claims, loaded.unreadable)
        for piece in _pieces({*entries, *loaded.claims}):
            fields = [encode_entry(entry) for entry in piece]
            found = zip(fields, client.hmget(names.runs, fields), strict=True)
            there = [(name, raw) for name, raw in found if raw is not None]
            decode_fields(there, _decode_run, loaded.runs, loaded.unreadable)
    except (redis.RedisError, OSError) as exc:
        raise translate(names.runs, exc) from exc
    return loaded


def load_unknown(
    client: Any,  # redis.Redis: its hscan has no usable annotations
    names: LedgerKeys,
    cursor: int,
) -> tuple[int, dict[str, int]]:
    """Return some entries that a leader did not know, and since when by Redis's clock.

    Returns:
        Where to go on, 0 at the end; and entry -> microseconds since 1970.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    unknown: dict[str, int] = {}
    try:
        cursor = _scan_once(client, names.unknown, cursor, _moment, unknown, {})
    except (redis.RedisError, OSError) as exc:
        raise translate(names.unknown, exc) from exc
    return cursor, unknown


def read_unknown(
    client: Any,  # redis.Redis: its hmget has no usable annotations
    names: LedgerKeys,
    entries: Collection[str],
) -> dict[str, int]:
    """Return since when entries are unknown, as ``load_unknown`` does; without those that are not.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    unknown: dict[str, int] = {}
    for piece in _pieces(entries):
        try:
            marks = client.hmget(names.unknown, [encode_entry(entry) for entry in piece])
        except (redis.RedisError, OSError) as exc:
            raise translate(names.unknown, exc) from exc
        unknown.update(
            (name, _moment(name, raw)) for name, raw in zip(piece, marks, strict=True) if raw
        )
    return unknown


def read_entries(
    client: Any,  # redis.Redis: its hmget has no usable annotations
    names: LedgerKeys,
    entries: Collection[str],
) -> dict[str, tuple[LastRun | None, Claim | None]]:
    """Return the run and the claim of entries; without those that cannot be read.

    The claim is read first: one that is committed in between is then found twice, not missed.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    found: dict[str, tuple[LastRun | None, Claim | None]] = {}
    for piece in _pieces(entries):
        fields = [encode_entry(entry) for entry in piece]
        try:
            claims = client.hmget(names.pending, fields)
            runs = client.hmget(names.runs, fields)
        except (redis.RedisError, OSError) as exc:
            raise translate(names.runs, exc) from exc
        _take_in(found, piece, runs, claims)
    return found


def glance(client: Any, names: LedgerKeys, entries: Collection[str]) -> Glance:
    """Return what stands in the ledger of a few entries, in one round trip.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    fields = [encode_entry(entry) for entry in entries]
    try:
        pipeline = client.pipeline(transaction=False)
        pipeline.hmget(names.pending, fields)
        pipeline.hmget(names.runs, [*fields, SENTINEL])
        claims, (*runs, sentinel) = pipeline.execute()
    except (redis.RedisError, OSError) as exc:
        raise translate(names.runs, exc) from exc
    seen = Glance(decode_pause(sentinel or b"") is not None)
    _take_in(seen.entries, entries, runs, claims)
    return seen


def _take_in(
    found: dict[str, tuple[LastRun | None, Claim | None]],
    entries: Collection[str],
    runs: Sequence[bytes | None],
    claims: Sequence[bytes | None],
) -> None:
    for entry, run, claim in zip(entries, runs, claims, strict=True):
        try:
            value = (
                decode_run(run) if run else None,
                decode_claim(entry, claim) if claim else None,
            )
        except UnreadableValueError:
            continue
        found[entry] = value


def _pieces(entries: Iterable[str]) -> Iterator[tuple[str, ...]]:
    left = iter(entries)
    while piece := tuple(islice(left, PIECE)):
        yield piece


def _decode_run(_: str, raw: bytes) -> LastRun:
    return decode_run(raw)


def _moment(_: str, raw: bytes) -> int:
    # A mark that cannot be read is written anew, so it counts as made now: never too early.
    return int(raw) if raw.isdigit() and len(raw) <= 16 else 2**53


def _scan(
    client: Any,
    name: str,
    decode: Callable[[str, bytes], _Value],
    into: dict[str, _Value],
    unreadable: dict[str, bytes],
) -> None:
    cursor = _scan_once(client, name, 0, decode, into, unreadable)
    while cursor:
        cursor = _scan_once(client, name, cursor, decode, into, unreadable)


def _scan_once(
    client: Any,
    name: str,
    cursor: int,
    decode: Callable[[str, bytes], _Value],
    into: dict[str, _Value],
    unreadable: dict[str, bytes],
) -> int:
    """Read the fields at a cursor; return the next one, 0 at the end."""
    cursor, piece = client.hscan(name, cursor, count=PIECE)
    decode_fields(piece.items(), decode, into, unreadable)
    return int(cursor)


def decode_fields(
    fields: Iterable[tuple[bytes, bytes]],
    decode: Callable[[str, bytes], _Value],
    into: dict[str, _Value],
    unreadable: dict[str, bytes],
) -> None:
    """Sort the fields of a hash into those that can be read and those that cannot."""
    for field_name, raw in fields:
        if field_name == SENTINEL:
            continue
        try:
            entry = decode_entry(field_name)
        except UnicodeDecodeError:
            # No entry can have this name, so nobody waits for it; but somebody should know.
            unreadable[field_name.decode("utf-8", "backslashreplace")] = raw
            continue
        try:
            into[entry] = decode(entry, raw)
        except UnreadableValueError:
            unreadable[entry] = raw
