"""The entries of a ledger, a page at a time, and the runs that are under way.

A ledger may have a hundred thousand entries. So Redis is asked for pieces, in the order in which it
keeps them, until a page is full; a page is sorted, the pages among each other are not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._ledger.codec import (
    Claim,
    UnreadableValueError,
    decode_claim,
    decode_entry,
    decode_run,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._operations.output import duration, moment, plain
from celery_safe_leader._operations.runs_command import RunRow, run_row, scan_runs
from celery_safe_leader._operations.target import NextMoment, Target, optional
from celery_safe_leader._store.errors import translate

__all__ = ["EntryLine", "EntryPage", "PageQuery", "UnsettledLine", "UnsettledPage", "read_entries"]
__all__ += ["read_unsettled"]

_FULL = 100
"""Entries of a page, at least; Redis may return more at once."""
_LONGEST_SEARCH = 1.0
"""Seconds until a page ends even if it is not full: a search that finds little reads all."""
_LATE_US = 1_000_000
"""A moment that has passed for longer is late; within that the leader is about to publish it."""
_SPECIAL = re.compile(r"[\[\]\\^]")
_FIRST = "0"
_LONGEST_PATTERN = 200


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which entries are wanted; anybody may have sent it."""

    search: str = ""
    """Part of a name; or with ``*`` for any characters and ``?`` for one, a whole name."""
    cursor: str = _FIRST
    """Where to go on: as the page before said."""

    @classmethod
    def of(cls, words: Mapping[str, str]) -> PageQuery:
        """Return what a request's ``search`` and ``cursor`` ask for."""
        cursor = words.get("cursor", "")
        is_cursor = cursor.isascii() and cursor.isdigit() and len(cursor) <= 20
        # What cannot be typed or shown may be any character.
        search = "".join(
            each if each.isprintable() else "?"
            for each in words.get("search", "")[:_LONGEST_PATTERN]
        )
        return cls(search, cursor if is_cursor else _FIRST)

    @property
    def pattern(self) -> str:
        """The same for Redis's ``MATCH``; empty for all."""
        if not self.search:
            return ""
        escaped = _SPECIAL.sub(r"\\\g<0>", self.search)
        return escaped if "*" in escaped or "?" in escaped else f"*{escaped}*"


@dataclass(frozen=True, slots=True)
class EntryLine:
    """One entry, as text."""

    entry: str
    last: str
    runs: str
    next: str
    late: str
    """For how long its next moment has passed; empty if it has not."""


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some of the entries."""

    query: PageQuery
    lines: tuple[EntryLine, ...] = ()
    next_cursor: str = ""
    """Where the next page begins; empty if there is none."""
    refused: str = ""
    """What the Redis user would need to see them; empty if it may."""

    @property
    def is_first(self) -> bool:
        """Whether it begins at the beginning."""
        return self.query.cursor == _FIRST


@dataclass(frozen=True, slots=True)
class UnsettledLine:
    """One run that is claimed, as text."""

    entry: str
    due: str
    since: str
    """How long ago it was due."""
    token: str
    """Of the tenure that claimed it."""
    task_id: str


@dataclass(frozen=True, slots=True)
class UnsettledPage:
    """The first of the runs that are on their way, or that a leader has to settle."""

    lines: tuple[UnsettledLine, ...] = ()
    is_whole: bool = True
    """Whether these are all."""
    refused: str = ""


def read_entries(
    client: redis.Redis,
    target: Target,
    query: PageQuery,
    next_of: NextMoment,
    told: Mapping[str, int],
    now_us: int | None,
) -> EntryPage:
    """Return a page of entries.

    Args:
        client: For the ledger's Redis.
        target: Whose ledger.
        query: Which of them.
        next_of: When an entry is due, as the app's schedule says.
        told: The same as the leader says, of a few entries.
        now_us: Redis's clock; ``None`` if it is not known.

    Raises:
        StoreError: Redis does not answer.
    """
    name = target.ledger.runs
    found, why = optional(lambda: _fill(client, name, query.cursor, query.pattern))
    if found is None:
        return EntryPage(query, refused=_needed(target, "+hscan", name, why))
    fields, cursor = found
    rows = [run_row(field, value, next_of) for field, value in fields.items()]
    rows.sort(key=lambda row: row.entry)
    lines = tuple(_entry_line(row, told, now_us) for row in rows)
    return EntryPage(query, lines, "" if cursor == _FIRST else cursor)


def _fill(
    client: redis.Redis, name: str, cursor: str, pattern: str
) -> tuple[dict[bytes, bytes], str]:
    fields: dict[bytes, bytes] = {}
    until = time.monotonic() + _LONGEST_SEARCH
    while True:
        cursor, piece = scan_runs(client, name, cursor, pattern)
        fields.update(piece)
        fields.pop(SENTINEL, None)
        if cursor == _FIRST or len(fields) >= _FULL or time.monotonic() > until:
            return fields, cursor


def _entry_line(row: RunRow, told: Mapping[str, int], now_us: int | None) -> EntryLine:
    name, run = plain(row.entry, _LONGEST_PATTERN), row.run
    if run is None:
        return EntryLine(name, "cannot be read", "?", "?", "")
    next_us = row.next_us if row.next_us is not None else told.get(row.entry)
    late_us = 0 if next_us is None or now_us is None else now_us - next_us
    return EntryLine(
        name,
        _short(run.moment) if run.count else "never",
        f"{run.count:,}",
        _short(next_us),
        duration(late_us / 1e6) if late_us > _LATE_US else "",
    )


def _short(at_us: int | None) -> str:
    return moment(at_us).removesuffix(" UTC")


def read_unsettled(client: redis.Redis, target: Target, now_us: int | None) -> UnsettledPage:
    """Return the runs that are claimed and not known to be published, the longest due first.

    Raises:
        StoreError: Redis does not answer.
    """
    names = target.ledger
    found, why = optional(lambda: _fill(client, names.pending, _FIRST, ""))
    if found is None:
        return UnsettledPage(refused=_needed(target, "+hscan", names.pending, why))
    fields, cursor = found
    claims, why = optional(lambda: list(_open_claims(client, names.runs, fields)))
    if claims is None:
        return UnsettledPage(refused=_needed(target, "+hmget", names.runs, why))
    claims.sort(key=lambda claim: (claim.moment, claim.entry))
    lines = tuple(_unsettled_line(claim, now_us) for claim in claims)
    return UnsettledPage(lines, cursor == _FIRST)


def _open_claims(client: Any, runs: str, fields: Mapping[bytes, bytes]) -> Iterator[Claim]:
    names = list(fields)
    try:
        values = client.execute_command("HMGET", runs, *names) if names else []
    except (redis.RedisError, OSError) as exc:
        raise translate(runs, exc) from exc
    for name, value in zip(names, values, strict=True):
        try:
            claim = decode_claim(decode_entry(name), fields[name])
            # One that was overtaken is left for the next leader to remove.
            if value is None or decode_run(value).moment < claim.moment:
                yield claim
        except UnreadableValueError:
            continue


def _unsettled_line(claim: Claim, now_us: int | None) -> UnsettledLine:
    since = "?" if now_us is None else duration((now_us - claim.moment) / 1e6)
    name, due = plain(claim.entry, _LONGEST_PATTERN), _short(claim.moment)
    return UnsettledLine(name, due, since, str(claim.token), plain(claim.occurrence))


def _needed(target: Target, command: str, name: str, why: str) -> str:
    return (
        f"the Redis user needs {command} %R~{plain(name)} to see them, and `{target.acl_command}` "
        f"prints all its rights. Redis says: {plain(why, 200)}"
    )
