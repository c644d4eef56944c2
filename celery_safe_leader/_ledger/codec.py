"""Last runs and claims, and how they are written in Redis.

A value is a string whose first field is its moment, so that scripts can compare moments without
parsing more. Entry names are the fields of the hashes, as UTF-8.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "FORMAT",
    "SENTINEL",
    "Claim",
    "LastRun",
    "Sentinel",
    "UnreadableValueError",
    "decode_claim",
    "decode_entry",
    "decode_run",
    "decode_sentinel",
    "encode_claim",
    "encode_entry",
    "encode_run",
    "encode_sentinel",
]

FORMAT = 1
"""Format of the ledger. It rises with each change that an older release would misread."""

SENTINEL = b"\xffledger"
"""Field with the format and the generation of a hash. No UTF-8 string has the byte 255."""

_MOMENT_LIMIT = 2**53  # Lua counts in doubles
_MOST_DIGITS = 20


class UnreadableValueError(ValueError):
    """A value of the ledger is not what this release writes."""


@dataclass(frozen=True, slots=True)
class LastRun:
    """Where an entry stands: its value in the hash ``runs``.

    Moments are microseconds since 1970 in UTC.
    """

    moment: int
    """Last occurrence committed, or where the entry starts if ``count`` is 0."""
    count: int
    """Occurrences committed, over all schedules that the entry had."""
    seen: int
    """When a leader first saw the present schedule."""
    fingerprint: str
    """Identifies the present schedule."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An occurrence that a leader is about to publish. It never changes while it is pending."""

    entry: str
    occurrence: str
    """Its id, which is the task id."""
    moment: int
    """When it was due, in microseconds since 1970 in UTC."""
    first: int
    """First moment that its run stands for; ``moment`` is the last."""
    fingerprint: str
    """Identifies the schedule that it was due by."""
    token: int
    """Fencing token of the leader that claimed it."""


@dataclass(frozen=True, slots=True)
class Sentinel:
    """State of a hash of the ledger."""

    generation: str
    step: int
    """Number of the last write of the generation."""
    partial: bool
    """A leader is writing its memory back, or died over it."""
    owner: str
    """Role of the election that may claim."""


def encode_entry(entry: str) -> bytes:
    """Return an entry's name as a field. Any string has one, lone surrogates included."""
    return entry.encode("utf-8", "surrogatepass")


def decode_entry(raw: bytes) -> str:
    """Return an entry's name from its field."""
    return raw.decode("utf-8", "surrogatepass")


def encode_run(run: LastRun) -> bytes:
    """Return a last run as a value.

    Raises:
        ValueError: The moment cannot be compared in Lua.
    """
    _check_moment(run.moment)
    return f"{run.moment} {run.count} {run.seen} {run.fingerprint}".encode()


def decode_run(raw: bytes) -> LastRun:
    """Return a last run from its value.

    Raises:
        UnreadableValueError: The value is not one.
    """
    try:
        moment, count, seen, fingerprint = raw.decode().split(" ", 3)
        run = LastRun(_number(moment), _number(count), _number(seen), fingerprint)
        _check_moment(run.moment)
    except ValueError as exc:
        raise UnreadableValueError(f"{raw[:200]!r} is not a run") from exc
    return run


def encode_claim(claim: Claim) -> bytes:
    """Return a claim as a value, without its entry.

    Raises:
        ValueError: The moment cannot be compared in Lua.
    """
    _check_moment(claim.moment)
    text = f"{claim.moment} {claim.first} {claim.token} {claim.occurrence} {claim.fingerprint}"
    return text.encode()


def decode_claim(entry: str, raw: bytes) -> Claim:
    """Return the claim of an entry from its value.

    Raises:
        UnreadableValueError: The value is not one.
    """
    try:
        moment, first, token, occurrence, fingerprint = raw.decode().split(" ", 4)
        numbers = _number(moment), _number(first)
        claim = Claim(entry, occurrence, *numbers, fingerprint, _number(token))
        _check_moment(claim.moment)
    except ValueError as exc:
        raise UnreadableValueError(f"{raw[:200]!r} is not a claim") from exc
    return claim


def encode_sentinel(sentinel: Sentinel) -> bytes:
    """Return a sentinel as a value."""
    state = "partial" if sentinel.partial else "whole"
    text = f"{FORMAT} {sentinel.generation} {sentinel.step} {state} {sentinel.owner}"
    return text.encode()


def decode_sentinel(raw: bytes) -> Sentinel | None:
    """Return a sentinel that a script found well-formed; empty means that there was none."""
    if not raw:
        return None
    _, generation, step, state, owner = raw.decode("utf-8", "replace").split(" ", 4)
    return Sentinel(generation, int(step[:16]), state == "partial", owner)


def _number(text: str) -> int:
    """Return a whole number of a length that numbers here may have.

    Raises:
        ValueError: It is not one.
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MOST_DIGITS:
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def _check_moment(moment: int) -> None:
    if not -_MOMENT_LIMIT < moment < _MOMENT_LIMIT:
        raise ValueError(f"moment is {moment}; it must be microseconds since 1970, below 2**53")
