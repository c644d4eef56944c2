"""Pausing a key: until it is resumed nothing is published or claimed, whoever leads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._ledger.errors import LedgerUnpausableError
from celery_safe_leader._ledger.hash_sentinel import FORMAT, Pause, decode_status
from celery_safe_leader._ledger.replies import refuse_format
from celery_safe_leader._ledger.script_calls import call, ledger_script
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["PauseChange", "end_expired_pause", "pause", "resume"]

_LONGEST = 10 * 365 * 86_400.0
"""Seconds."""

_REASONS = {
    b"NONE": "there is no ledger yet, because no beat with this key has been elected leader",
    b"TORN": "part of it was lost, and a leader has to restore it first",
    b"partial": "a leader is restoring it; try again in a few seconds",
    b"whole": (
        "the leader is of a release that knows no pauses and would not obey; install the present "
        "one on all machines first"
    ),
}


@dataclass(frozen=True, slots=True)
class PauseChange:
    """What a ledger says after a request to pause or resume it."""

    pause: Pause | None
    """The pause that is in force now."""
    claims: int
    """Runs that are claimed. Those that a leader claimed before the pause may still go out."""


def pause(client: redis.Redis, names: LedgerKeys, seconds: float = 0.0) -> PauseChange:
    """Let nobody publish or claim runs until the ledger is resumed. Any thread, any process.

    A ledger that is paused gets a new pause with the new end. A request without an answer may be
    repeated.

    Args:
        client: For the Redis that holds the ledger.
        names: Of the ledger's keys.
        seconds: After which the pause ends by itself, by Redis's clock; 0 for no end.

    Raises:
        LedgerUnpausableError: No ledger exists, or its leader is of a release that ignores pauses.
        LedgerFormatError: A release that this one cannot read has written it.
        StoreUnavailableError: No answer; it may be paused.
        StoreRefusedError: Redis answered with an error; nothing was changed.
    """
    if not 0 <= seconds <= _LONGEST:
        raise ValueError(f"a pause of {seconds} s: it must be between 0 and {_LONGEST:.0f}")
    return _call(client, names, round(seconds * 1_000_000))


def resume(client: redis.Redis, names: LedgerKeys) -> PauseChange:
    """End the pause, if there is one. What was missed is due then, by policy.

    Raises:
        LedgerUnpausableError: No ledger exists.
        SafeLeaderError: As :func:`pause`.
    """
    return _call(client, names, "resume")


def end_expired_pause(client: redis.Redis, names: LedgerKeys) -> PauseChange:
    """End a pause that has run out, so that an older release may lead again.

    Raises:
        SafeLeaderError: As :func:`resume`.
    """
    return _call(client, names, "expire")


def _call(client: redis.Redis, names: LedgerKeys, what: int | str) -> PauseChange:
    script = ledger_script("pause", "sentinel")
    reply: Any = call(client, script, (names.runs, names.pending), (what, FORMAT))
    status = reply[0]
    if status == b"FORMAT":
        refuse_format(reply[1], names.key)
    reason = _REASONS.get(reply[1] if status == b"UNMARKED" else status)
    if reason is not None:
        raise LedgerUnpausableError(names.key, reason)
    record, _ = decode_status(status)
    return PauseChange(record.pause if record else None, reply[1])
