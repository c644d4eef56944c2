"""Reading entries for a standby's copy: each piece says which ledger it is of."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import redis

from celery_safe_leader._ledger.codec import decode_run, encode_entry
from celery_safe_leader._ledger.hash_sentinel import decode_sentinel
from celery_safe_leader._ledger.reading.load import PIECE, decode_fields
from celery_safe_leader._ledger.results import CopiedPiece, LedgerState
from celery_safe_leader._ledger.script_calls import call, identifying_script
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["copy_entries", "copy_next"]


def copy_next(client: redis.Redis, names: LedgerKeys, cursor: int) -> CopiedPiece:
    """Read the entries at a cursor; 0 is the beginning.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    *state, found = _call(client, names, (cursor, PIECE))
    return _piece(state, list(zip(found[::2], found[1::2], strict=True)))


def copy_entries(client: redis.Redis, names: LedgerKeys, entries: Collection[str]) -> CopiedPiece:
    """Read entries, ``PIECE`` at most. What is not in the ledger is not in the piece.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    fields = [encode_entry(entry) for entry in entries]
    *state, found = _call(client, names, ("", *fields))
    return _piece(state, [pair for pair in zip(fields, found, strict=True) if pair[1] is not None])


def _call(client: redis.Redis, names: LedgerKeys, args: Sequence[bytes | str | int]) -> Any:
    return call(client, identifying_script("copy"), (names.runs, names.pending), args)


def _piece(state: Sequence[Any], found: Sequence[tuple[bytes, bytes]]) -> CopiedPiece:
    epoch, raw_runs, raw_pending, entries, now, cursor = state
    sentinel = decode_sentinel(raw_runs) if raw_runs == raw_pending else None
    mark = "" if sentinel is None else sentinel.mark
    read = LedgerState(epoch.decode("utf-8", "replace"), mark, entries)
    piece = CopiedPiece(read, int(now), int(cursor), {}, {})
    decode_fields(found, lambda _, raw: decode_run(raw), piece.runs, piece.unreadable)
    return piece
