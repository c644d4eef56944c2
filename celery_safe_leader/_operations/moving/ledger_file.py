"""A ledger as a file: JSON with a version. ``docs/operations/moving.md`` documents it.

What can be put back stands in ``value``, as Redis holds it; the rest is for people.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    decode_claim,
    decode_run,
    encode_claim,
    encode_run,
)
from celery_safe_leader._ledger.moving.contents import LedgerContents
from celery_safe_leader._operations.output import utc

__all__ = ["LedgerFile", "UnusableFileError", "ledger_lines", "parse_ledger"]

SCHEMA, VERSION = "ledger", 1
_Value = TypeVar("_Value")


class UnusableFileError(ValueError):
    """The file does not hold a ledger that this release can put into Redis."""


@dataclass(slots=True)
class LedgerFile:
    """What an exported ledger holds."""

    key: str
    election: str
    """Role of the election that it belonged to."""
    is_paused: bool
    """Whether it was paused while it was read: then nothing has run since, if it still is."""
    runs: dict[str, LastRun] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    accepted: dict[str, str] = field(default_factory=dict)
    """Occurrence of a claim -> the publication that a worker accepted."""


def ledger_lines(
    head: Mapping[str, Any], contents: LedgerContents, accepted: Mapping[str, str]
) -> Iterator[str]:
    """Return the lines of a file: one JSON object, an entry a line.

    Args:
        head: Fields about the whole; ``schema`` and ``version`` come before them.
        contents: Of the ledger.
        accepted: As in :class:`LedgerFile`.
    """
    whole = {"schema": SCHEMA, "version": VERSION, **head}
    yield json.dumps(whole)[:-1] + ","
    entries = (_entry(name, contents.runs[name]) for name in sorted(contents.runs))
    yield from _array("entries", entries, ",")
    claims = (
        json.dumps(_claim(contents.claims[name], accepted)) for name in sorted(contents.claims)
    )
    yield from _array("claims", claims, ",")
    unreadable = (
        json.dumps({"entry": name, "value": value.decode("utf-8", "backslashreplace")})
        for name, value in sorted(contents.unreadable.items())
    )
    yield from _array("unreadable", unreadable, "}")


def _array(name: str, objects: Iterator[str], after: str) -> Iterator[str]:
    yield f'"{name}": ['
    before = next(objects, None)
    for each in objects:
        yield f"{before},"
        before = each
    if before is not None:
        yield before
    yield f"]{after}"


def _entry(name: str, run: LastRun) -> str:
    # By hand: a hundred thousand small objects take a dumps four times as long.
    last = json.dumps(utc(run.moment) if run.count else None)
    value = json.dumps(encode_run(run).decode())
    return (
        f'{{"entry": {json.dumps(name)}, "last": {last}, "count": {run.count}, "value": {value}}}'
    )


def _claim(claim: Claim, accepted: Mapping[str, str]) -> dict[str, Any]:
    return {
        "entry": claim.entry,
        "occurrence": claim.occurrence,
        "moment": utc(claim.moment),
        "accepted": accepted.get(claim.occurrence),
        "value": encode_claim(claim).decode(),
    }


def parse_ledger(text: str) -> LedgerFile:
    """Return what a file holds.

    Raises:
        UnusableFileError: It is not an exported ledger, or of a newer release. Says where.
    """
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise UnusableFileError(f"it is not JSON: {str(exc)[:200]}") from exc
    if not isinstance(whole, dict) or whole.get("schema") != SCHEMA:
        raise UnusableFileError("it was not made by `leader ledger export`")
    if whole.get("version") != VERSION:
        raise UnusableFileError(
            f"it has version {whole.get('version')!r:.40} of the schema, and this release reads "
            f"version {VERSION}: use the release that made it"
        )
    key, election, paused = (whole.get(name) for name in ("key", "election", "paused"))
    if not isinstance(key, str) or not isinstance(election, str) or not isinstance(paused, bool):
        raise UnusableFileError("its key, election or paused is missing")
    if not election or " " in election or not election.isprintable():
        raise UnusableFileError(f"its election is {election[:40]!r}")
    file = LedgerFile(key, election, paused)
    for number, name, each in _named(whole, "entries"):
        if name in file.runs:
            raise UnusableFileError(f"entry {number} is there twice: {name[:80]!r}")
        file.runs[name] = _decoded(number, each, decode_run, encode_run)
    for number, name, each in _named(whole, "claims"):
        if name in file.claims:
            raise UnusableFileError(f"claim {number} is there twice: {name[:80]!r}")
        claim = _decoded(number, each, partial(decode_claim, name), encode_claim)
        file.claims[name] = claim
        nonce = each.get("accepted")
        if isinstance(nonce, str):
            file.accepted[claim.occurrence] = nonce
    return file


def _named(whole: dict[str, Any], part: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    values = whole.get(part)
    if not isinstance(values, list):
        raise UnusableFileError(f"its {part} are missing")
    for number, each in enumerate(values, 1):
        name = each.get("entry") if isinstance(each, dict) else None
        if not isinstance(name, str):
            raise UnusableFileError(f"number {number} of its {part} has no name")
        yield number, name, each


def _decoded(
    number: int,
    each: dict[str, Any],
    decode: Callable[[bytes], _Value],
    encode: Callable[[_Value], bytes],
) -> _Value:
    text = each.get("value")
    try:
        raw = text.encode() if isinstance(text, str) else b""
        value = decode(raw)
        if encode(value) == raw:
            return value
    except ValueError:
        pass
    raise UnusableFileError(
        f"the value of number {number}, {each['entry'][:80]!r}, is {text!r:.80}"
    )
