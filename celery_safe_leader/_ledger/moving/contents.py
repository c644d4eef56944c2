"""All that a ledger holds, read so that it can be put into another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import redis

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.hash_sentinel import (
    SENTINEL,
    Pause,
    Sentinel,
    decode_pause,
    decode_sentinel,
)
from celery_safe_leader._ledger.reading.load import load_hashes
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["LedgerContents", "read_accepted", "read_contents"]


@dataclass(slots=True)
class LedgerContents:
    """What a ledger holds. Moments are microseconds since 1970 in UTC."""

    sentinels: tuple[bytes, bytes] = (b"", b"")
    """Of ``runs`` and of ``pending``, as they were before the rest was read; empty: none."""
    runs: dict[str, LastRun] = field(default_factory=dict)
    """Entry -> its last run."""
    claims: dict[str, Claim] = field(default_factory=dict)
    """Entry -> a run that is later than that and not known to be published."""
    unreadable: dict[str, bytes] = field(default_factory=dict)
    """What stands under names or in values that no release writes."""

    @property
    def is_whole(self) -> bool:
        """Whether both hashes are there and belong together."""
        return self.sentinels[0] == self.sentinels[1] and self.sentinel is not None

    @property
    def sentinel(self) -> Sentinel | None:
        """That of ``runs``, if this release can read it."""
        return decode_sentinel(self.sentinels[0])

    @property
    def pause(self) -> Pause | None:
        """The pause that was in force; it may have run out by Redis's clock."""
        return decode_pause(self.sentinels[0])


def read_contents(client: redis.Redis, names: LedgerKeys) -> LedgerContents:
    """Return all that a ledger holds, read in pieces that keep nobody waiting.

    While the ledger is paused it is what the leader knows. Else entries may run while others are
    read: each is then as it was at some moment meanwhile.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    sentinels = (_sentinel(client, names.runs), _sentinel(client, names.pending))
    loaded = load_hashes(client, names)
    claims = {
        entry: claim
        for entry, claim in loaded.claims.items()
        if entry not in loaded.runs or claim.moment > loaded.runs[entry].moment
    }
    return LedgerContents(sentinels, loaded.runs, claims, loaded.unreadable)


def read_accepted(client: redis.Redis, names: LedgerKeys, occurrences: list[str]) -> dict[str, str]:
    """Return which of these occurrences a worker accepted, with the nonce of the publication.

    Raises:
        StoreUnavailableError: No answer.
        StoreRefusedError: Redis answered with an error.
    """
    accepted = {}
    for occurrence in occurrences:
        nonce = _execute(client, "GET", names.accepted(occurrence))
        if nonce is not None:
            accepted[occurrence] = nonce.decode("utf-8", "replace")
    return accepted


def _sentinel(client: redis.Redis, name: str) -> bytes:
    return _execute(client, "HGET", name, SENTINEL) or b""


def _execute(client: Any, *command: Any) -> Any:
    try:
        return client.execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        raise translate(str(command[1]), exc) from exc
