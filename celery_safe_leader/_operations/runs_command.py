"""``leader runs``: what the ledger says of each entry, and when it is due next."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import click
import redis

from celery_safe_leader._ledger.codec import (
    LastRun,
    UnreadableValueError,
    decode_entry,
    decode_run,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._operations.ledger_view import read_ledger
from celery_safe_leader._operations.output import (
    moment,
    no_collector,
    plain,
    print_json,
    print_table,
    utc,
)
from celery_safe_leader._operations.pause_commands import as_json_option
from celery_safe_leader._operations.status_command import OTHER_PLACE
from celery_safe_leader._operations.target import NextMoment, Target, optional, pass_target
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.server_now import read_time

__all__ = ["RunRow", "nobody_knows", "run_row", "runs", "scan_runs"]

_MOMENT = len("2026-11-27 18:03:12")
_PIECE = 250
"""Fields of one request, so that none keeps Redis busy for a millisecond: it takes 0.1."""


class RunRow(NamedTuple):
    """One entry."""

    entry: str
    run: LastRun | None
    """``None`` if the ledger's value cannot be read."""
    next_us: int | None
    """``None`` if it is not known."""


@click.command()
@click.argument("pattern", default="")
@as_json_option
@pass_target
@no_collector()
def runs(target: Target, pattern: str, as_json: bool) -> int:
    """Show when each entry ran last, how often, and when it is due next.

    PATTERN is the name of an entry, in which * stands for any characters and ? for one. The next
    moment is known with `celery -A proj leader`, where the app's schedule of the entry is the one
    that the leader follows; else it is shown as ?.

    Exits with 0, or with 1 if no entry matches.
    """
    client = target.connect()
    try:
        rows = sorted(_rows(client, target, pattern), key=attrgetter("entry"))
        is_there = bool(rows) or _has_ledger(client, target)
        now_us, _ = optional(lambda: read_time(client))
    finally:
        client.close()
    if as_json:
        print_json("runs", now_us, {"key": target.key, "entries": [_fields(row) for row in rows]})
    elif not rows:
        click.echo(_nothing(target, pattern, is_there))
    else:
        print_table(("entry", "last run (UTC)", "runs", "next (UTC)"), map(_cells, rows))
    return 0 if rows else 1


def _has_ledger(client: redis.Redis, target: Target) -> bool:
    ledger, refused = read_ledger(client, target.ledger)
    return bool(refused) or (ledger is not None and (ledger.entries > 0 or bool(ledger.owner)))


def _nothing(target: Target, pattern: str, is_there: bool) -> str:
    where = f"{plain(target.key)} at {plain(target.server)}"
    if not is_there:
        return (
            f"No ledger under this key, {where}: no beat has led since Redis was emptied, "
            f"{OTHER_PLACE}."
        )
    if not pattern:
        return (
            f"The ledger of {where} has no entries. Schedulers over django-celery-beat and RedBeat "
            "keep what ran in their own store."
        )
    return f"The ledger of {where} has no such entry."


def _rows(client: redis.Redis, target: Target, pattern: str) -> Iterator[RunRow]:
    next_of = target.next_moments() if target.next_moments else nobody_knows
    names = target.ledger
    cursor = "0"
    seen: set[bytes] = set()
    while True:
        cursor, fields = scan_runs(client, names.runs, cursor, pattern)
        for field, value in fields.items():
            # A scan may return a field twice.
            if field != SENTINEL and field not in seen:
                seen.add(field)
                yield run_row(field, value, next_of)
        if cursor == "0":
            return


def run_row(field: bytes, value: bytes, next_of: NextMoment) -> RunRow:
    """Return what a field of the hash ``runs`` says."""
    entry = decode_entry(field)
    try:
        run = decode_run(value)
    except UnreadableValueError:
        return RunRow(entry, None, None)
    return RunRow(entry, run, next_of(entry, run))


def nobody_knows(entry: str, run: LastRun) -> int | None:
    """Return ``None``, where no app says when entries are due."""
    return None


def scan_runs(
    client: redis.Redis, name: str, cursor: str, pattern: str
) -> tuple[str, dict[bytes, bytes]]:
    """Return the next piece of a hash of the ledger, and where to go on; ``"0"`` is its end.

    Args:
        client: For its Redis.
        name: Of the hash.
        cursor: Where to begin: ``"0"``, or what the last piece returned.
        pattern: Of the entries that are meant, as Redis's ``MATCH`` has it; empty for all.

    Raises:
        StoreError: Redis does not answer, or refuses.
    """
    caller: Any = client
    words = ("MATCH", pattern.encode("utf-8", "surrogateescape")) if pattern else ()
    try:
        after, fields = caller.execute_command("HSCAN", name, cursor, *words, "COUNT", _PIECE)
    except (redis.RedisError, OSError) as exc:
        raise translate(name, exc) from exc
    return str(int(after)), fields or {}


def _cells(row: RunRow) -> tuple[str, str, str, str]:
    run = row.run
    if run is None:
        return row.entry, "cannot be read", "?", "?"
    last = moment(run.moment)[:_MOMENT] if run.count else "never"
    coming = "?" if row.next_us is None else moment(row.next_us)[:_MOMENT]
    return row.entry, last, f"{run.count:,}", coming


def _fields(row: RunRow) -> dict[str, Any]:
    run = row.run
    return {
        "entry": row.entry,
        "last": utc(run.moment) if run and run.count else None,
        "count": run.count if run else None,
        "next": utc(row.next_us),
    }
