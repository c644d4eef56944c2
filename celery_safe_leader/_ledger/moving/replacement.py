"""Puts a ledger in the place of another one, at once or not at all; renames an entry.

The new one is written beside the old one, in pieces that expire if nobody goes on. One script then
gives it the names of the old one. So whatever ends this process, at any line: the ledger is the old
one or the new one.

Both end with a generation that no leader made. A leader that finds it reads the ledger anew,
instead of writing its memory back as after a loss.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

import redis

from celery_safe_leader._ledger.acceptance import LONG_LIFE_MS
from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    encode_claim,
    encode_entry,
    encode_run,
)
from celery_safe_leader._ledger.errors import LedgerBusyError, LedgerUnmovableError
from celery_safe_leader._ledger.hash_sentinel import FORMAT, REPLACED, decode_status
from celery_safe_leader._ledger.moving.contents import LedgerContents
from celery_safe_leader._ledger.replies import refuse_format
from celery_safe_leader._ledger.script_calls import call, ledger_script
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["note_accepted", "rename_entry", "replace_contents"]

_STAGED_MS = 3_600_000
"""Milliseconds that what is staged lives, if nobody goes on."""
_PIECE = 100
"""Fields of one request, so that none keeps Redis busy for a millisecond."""

_REASONS = {
    b"NONE": "there is no ledger: no LeaderScheduler has led under this key",
    b"TORN": "part of it was lost, and a leader has to restore it first",
    b"PARTIAL": "a leader is restoring it; try again in a few seconds",
    b"UNMARKED": (
        "the leader is of a release that would take this for a loss; install the present one on "
        "all machines first"
    ),
    b"UNPAUSED": "it is not paused, and a leader may publish from it: pause it first",
    b"CHANGED": "a leader wrote to it meanwhile: try again, or stop the beats of this key first",
    b"EXPIRED": "what was staged has expired: it took more than an hour",
    b"MISSING": "it has no entry of the old name",
    b"TAKEN": "the new name has runs of its own",
}


def replace_contents(
    client: redis.Redis,
    names: LedgerKeys,
    before: LedgerContents,
    runs: Mapping[str, LastRun],
    claims: Mapping[str, Claim],
    owner: str,
) -> int:
    """Let a ledger hold these runs and claims and nothing else. It is paused afterwards.

    Args:
        client: For the Redis that holds the ledger.
        names: Of the ledger's keys.
        before: The ledger as it was read. If anything was written to it since, nothing is changed.
        runs: Entry -> last run.
        claims: Entry -> claim.
        owner: Role of the election that may write it, if there is no ledger yet.

    Returns:
        Number of the pause.

    Raises:
        LedgerBusyError: It was written to since it was read. Nothing was changed.
        LedgerUnmovableError: It is neither paused nor empty, or is torn. Nothing was changed.
        LedgerFormatError: A release that this one cannot read has written it.
        StoreUnavailableError: No answer; it may have been replaced.
        StoreRefusedError: Redis answered with an error; nothing was changed.
    """
    nonce = secrets.token_hex(8)
    staged = names.staged(nonce, "runs"), names.staged(nonce, "pending")
    values = [
        ((encode_entry(name), encode_run(run)) for name, run in runs.items()),
        ((encode_entry(name), encode_claim(claim)) for name, claim in claims.items()),
    ]
    try:
        for name, fields in zip(staged, values, strict=True):
            _stage(client, name, fields)
        keys = (
            *(names.runs, names.pending, names.unknown, *staged),
            *(names.staged(nonce, "old-runs"), names.staged(nonce, "old-pending")),
        )
        args = (
            *before.sentinels,
            *(REPLACED + nonce, secrets.token_hex(8), owner, FORMAT, len(runs), len(claims)),
        )
        reply = _call(client, "replace", keys, args, names)
    except BaseException:
        # If it cannot be told, it expires.
        with suppress(redis.RedisError, OSError):
            client.unlink(*staged)
        raise
    record, _ = decode_status(reply[0])
    return record.number if record else 0


def rename_entry(client: redis.Redis, names: LedgerKeys, old: str, new: str) -> None:
    """Let an entry go on under another name, with its last run and its claim.

    An entry of the new name that has never run is replaced.

    Raises:
        LedgerUnmovableError: The ledger is not paused, there is no such entry, or the new name
            has runs of its own. Nothing was changed.
        SafeLeaderError: As :func:`replace_contents`.
    """
    keys = (names.runs, names.pending, names.unknown)
    args = (
        *(encode_entry(old), encode_entry(new)),
        *(REPLACED + secrets.token_hex(8), secrets.token_hex(8), FORMAT),
    )
    _call(client, "rename", keys, args, names)


def note_accepted(client: redis.Redis, names: LedgerKeys, accepted: Mapping[str, str]) -> None:
    """Note which publication of occurrences was accepted elsewhere, unless one is here.

    Raises:
        StoreUnavailableError: No answer; they may have been noted.
        StoreRefusedError: Redis answered with an error.
    """
    caller: Any = client
    for occurrence, nonce in accepted.items():
        name = names.accepted(occurrence)
        try:
            caller.execute_command("SET", name, nonce, "NX", "PX", LONG_LIFE_MS)
        except (redis.RedisError, OSError) as exc:
            raise translate(name, exc) from exc


def _stage(client: redis.Redis, name: str, fields: Iterable[tuple[bytes, bytes]]) -> None:
    for piece in _pieces(fields):
        args: list[bytes | str | int] = [_STAGED_MS]
        for field in piece:
            args += field
        call(client, ledger_script("stage"), (name,), args)


def _pieces(fields: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    left = iter(fields)
    while piece := list(islice(left, _PIECE)):
        yield piece


def _call(
    client: redis.Redis,
    script: str,
    keys: tuple[str, ...],
    args: tuple[bytes | str | int, ...],
    names: LedgerKeys,
) -> Any:
    reply: Any = call(client, ledger_script(script, "sentinel", "unled"), keys, args)
    if reply[0] == b"FORMAT":
        refuse_format(reply[1], names.key)
    if reply[0] in _REASONS:
        error = LedgerBusyError if reply[0] == b"CHANGED" else LedgerUnmovableError
        raise error(names.key, _REASONS[reply[0]])
    return reply
