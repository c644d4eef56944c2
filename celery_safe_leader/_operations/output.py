"""How commands write: lines that show any text as text, and JSON with a version.

Names of entries, hosts and reasons come from Redis, where anybody may have written anything: what
a terminal would act on is escaped.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any

import click

__all__ = [
    "clause",
    "duration",
    "moment",
    "no_collector",
    "plain",
    "print_json",
    "print_table",
    "utc",
]

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC; with a zone all takes twice as long
_LONGEST = 120
"""Characters of a value in a table."""
_UNITS = (("d", 86_400), ("h", 3600), ("min", 60))


def plain(text: str, longest: int = _LONGEST) -> str:
    """Return any text in one line that no terminal acts on, cut to ``longest`` characters."""
    if text.isprintable() and len(text) <= longest:
        return text
    if not text.isprintable():
        text = "".join(each if each.isprintable() else _escaped(each) for each in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _escaped(character: str) -> str:
    # Lone surrogates, too: a terminal's encoding has none.
    return character.encode("unicode_escape", "surrogatepass").decode("ascii", "replace")


def utc(microseconds: int | None) -> str | None:
    """Return a moment as ISO 8601 in UTC, to the millisecond; ``None`` for none and what is none.

    Args:
        microseconds: Since 1970.
    """
    if microseconds is None:
        return None
    try:
        return f"{_date(microseconds).isoformat('T', 'milliseconds')}Z"
    except OverflowError:
        return None


def moment(microseconds: int | None) -> str:
    """Return a moment for people: ``2026-11-27 18:03:12 UTC``, ``?`` if it is not known."""
    if microseconds is None:
        return "?"
    try:
        return f"{_date(microseconds).isoformat(' ', 'seconds')} UTC"
    except OverflowError:
        return "?"


def _date(microseconds: int) -> datetime:
    return _EPOCH + timedelta(0, 0, microseconds)


def duration(seconds: float | None) -> str:
    """Return a length of time for people: ``0.4 s``, ``12 min 5 s``, ``3 d 4 h``; or ``?``."""
    if seconds is None:
        return "?"
    if abs(seconds) < 60:
        return f"{seconds:.3f} s" if abs(seconds) < 0.1 else f"{seconds:.1f} s"
    left = int(abs(seconds))
    parts: list[str] = []
    for name, size in (*_UNITS, ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}")
    shown = " ".join(part for part in parts[:2] if not part.startswith("0 "))
    return f"-{shown}" if seconds < 0 else shown


def clause(count: int | None, one: str, several: str = "") -> str:
    """Return a number with its noun: ``1 entry``, ``3 entries``, ``? entries``."""
    noun = one if count == 1 else several or f"{one}s"
    return f"{'?' if count is None else f'{count:,}'} {noun}"


def print_json(schema: str, at: int | None, fields: Mapping[str, Any]) -> None:
    """Print one object, in one line, with the name and the version of its schema.

    Within a version fields may be added; none is removed and none changes its meaning.

    Args:
        schema: Name of the command.
        at: Redis's clock, in microseconds since 1970; ``None`` if it is not known.
        fields: All else.
    """
    # ASCII: no terminal acts on it, and no encoding lacks a letter of it.
    whole = {"schema": schema, "version": 1, "at": utc(at), **fields}
    click.echo(json.dumps(whole))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows below a head, in columns; every cell is made plain."""
    columns = list(map(_plain_column, zip(head, *rows, strict=True)))
    padded = [map(str.ljust, column, repeat(max(map(len, column)))) for column in columns]
    # All at once: a terminal, a pipe and a file cost much for each write.
    click.echo("\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True)))


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep Python's collector of cycles still, for what makes very many objects and no cycle.

    It would look at all of them again and again, which takes a fifth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _plain_column(cells: Sequence[str]) -> Sequence[str]:
    # Of a hundred thousand cells that are plain already it takes a tenth of the time to see that.
    if max(map(len, cells)) <= _LONGEST and "".join(cells).isprintable():
        return cells
    return list(map(plain, cells))
