"""When each entry is due next, as the leader's schedule says, for a successor with another one.

The hash may be missing, old or an earlier leader's, and is not fenced: each note names the schedule
and the last run that it was computed from, so a reader can tell what it is worth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._ledger.codec import LastRun, encode_entry
from celery_safe_leader._store.errors import translate

__all__ = ["NextMoment", "drop_next_moments", "read_next_moments", "write_next_moments"]

_PIECE = 500
_MOST_DIGITS = 20


@dataclass(frozen=True, slots=True)
class NextMoment:
    """When an entry was due next. Moments are microseconds since 1970 in UTC."""

    fingerprint: str
    """Of the schedule by which it was."""
    base: int
    """What it was counted from: the last run at that time."""
    next: int
    """The first due moment after it."""

    def after(self, last_run: LastRun) -> int | None:
        """Return when the entry is due next by that schedule; ``None`` if it was another one.

        If the note is older than the last run, the pause between two runs is taken to be the same.
        """
        if self.fingerprint != last_run.fingerprint:
            return None
        return self.next if self.base == last_run.base else last_run.base + self.next - self.base


def write_next_moments(
    client: redis.Redis, key: str, key_name: str, moments: Mapping[str, NextMoment]
) -> None:
    """Note when entries are due next, in one request.

    Args:
        client: For the Redis of the ledger.
        key: The user's name for it.
        key_name: Of the hash.
        moments: Entry -> its note.

    Raises:
        StoreUnavailableError: No answer; they may have been noted.
        StoreRefusedError: Redis answered with an error.
    """
    if moments:
        args: list[Any] = []
        for name, each in moments.items():
            args += (encode_entry(name), f"{each.base} {each.next} {each.fingerprint}")
        _execute(client, key, "HSET", key_name, *args)


def drop_next_moments(client: redis.Redis, key: str, key_name: str, names: Collection[str]) -> None:
    """Remove the notes of entries. Raises what ``write_next_moments`` raises."""
    if names:
        _execute(client, key, "HDEL", key_name, *map(encode_entry, names))


def read_next_moments(
    client: redis.Redis, key: str, key_name: str, names: Collection[str]
) -> dict[str, NextMoment]:
    """Return the notes of entries that have one. Raises what ``write_next_moments`` raises."""
    found = {}
    wanted = list(names)
    for start in range(0, len(wanted), _PIECE):
        piece = wanted[start : start + _PIECE]
        values = _execute(client, key, "HMGET", key_name, *map(encode_entry, piece))
        for name, value in zip(piece, values, strict=True):
            moment = _decoded(value)
            if moment is not None:
                found[name] = moment
    return found


def _decoded(value: Any) -> NextMoment | None:
    if not isinstance(value, bytes):
        return None
    base, _, rest = value.decode("utf-8", "replace").partition(" ")
    following, _, fingerprint = rest.partition(" ")
    for digits in (base, following):
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _MOST_DIGITS):
            return None
    return NextMoment(fingerprint, int(base), int(following))


def _execute(client: redis.Redis, key: str, *command: Any) -> Any:
    caller: Any = client
    try:
        return caller.execute_command(*command)
    except (redis.RedisError, OSError) as exc:
        raise translate(key, exc) from exc
