"""Last runs and claims, and how they are written in Redis.

A value is a string whose first field is its moment, so that scripts can compare moments without
parsing more. Entry names are the fields of the hashes, as UTF-8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = [
    "Claim",
    "LastRun",
    "UnreadableValueError",
    "decode_claim",
    "decode_entry",
    "decode_run",
    "encode_claim",
    "encode_entry",
    "encode_run",
]

_MOMENT_LIMIT = 2**53  # Lua counts in doubles
_MOST_DIGITS = 20
_SET_BACK = range(1_500_000_000, 100_000_000_000)
"""Seconds since 1970, from 2017 on. Read as microseconds they are moments of the first days of
1970, when no leader saw a schedule."""
_SEVERAL = " x"
_NUMBER = f"(0|-?[1-9][0-9]{{0,{_MOST_DIGITS - 1}}})"
"""As it is written here, and in no other way: scripts compare values as text."""
_RUN = re.compile(f"{_NUMBER} {_NUMBER} {_NUMBER} (.*)", re.DOTALL).fullmatch


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
    """When a leader first saw the present schedule. After it was set back, see ``set_back``, the
    second until which it is repeated: a moment so long ago that nothing counts as missed by it."""
    fingerprint: str
    """Identifies the present schedule."""

    @property
    def base(self) -> int:
        """The moment after which the entry is due next."""
        return max(self.moment, self.seen)

    @property
    def is_start(self) -> bool:
        """Whether the entry has not run since a leader enrolled it."""
        return self.count == 0 or self.moment == self.seen

    def set_back(self, moment: int, fingerprint: str) -> LastRun:
        """Return where an entry goes on from an earlier moment, since this one lies in the future.

        Which moments come again from there on stays known, to every later leader, until the
        schedule changes. Earlier releases read that as "seen in 1970".
        """
        until = -(-max(self.moment, self.repeats_until) // 1_000_000)
        return LastRun(moment, self.count, until, fingerprint)

    @property
    def repeats_until(self) -> int:
        """Until when moments come again, since the entry was set back; 0 if it was not."""
        return self.seen * 1_000_000 if self.seen in _SET_BACK else 0


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
    messages: int = 1
    """Of how many messages its run is. It is written behind the fingerprint, where releases that
    know nothing of it read past it and write it back."""


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
        found = _RUN(raw.decode())
        if found is not None:
            moment, count, seen, fingerprint = found.groups()
            run = LastRun(int(moment), int(count), int(seen), fingerprint)
            _check_moment(run.moment)
            return run
    except ValueError as exc:
        raise UnreadableValueError(f"{raw[:200]!r} is not a run") from exc
    raise UnreadableValueError(f"{raw[:200]!r} is not a run")


def encode_claim(claim: Claim) -> bytes:
    """Return a claim as a value, without its entry.

    Raises:
        ValueError: The moment cannot be compared in Lua.
    """
    _check_moment(claim.moment)
    text = f"{claim.moment} {claim.first} {claim.token} {claim.occurrence} {claim.fingerprint}"
    return (f"{text}{_SEVERAL}{claim.messages}" if claim.messages > 1 else text).encode()


def decode_claim(entry: str, raw: bytes) -> Claim:
    """Return the claim of an entry from its value.

    Raises:
        UnreadableValueError: The value is not one.
    """
    try:
        moment, first, token, occurrence, fingerprint = raw.decode().split(" ", 4)
        fingerprint, messages = _split_messages(fingerprint)
        numbers = _number(moment), _number(first)
        claim = Claim(entry, occurrence, *numbers, fingerprint, _number(token), messages)
        _check_moment(claim.moment)
    except ValueError as exc:
        raise UnreadableValueError(f"{raw[:200]!r} is not a claim") from exc
    return claim


def _split_messages(text: str) -> tuple[str, int]:
    """Return the fingerprint and the number of messages of a claim."""
    fingerprint, mark, digits = text.rpartition(_SEVERAL)
    if mark and digits.isascii() and digits.isdigit() and 1 < len(digits) + 1 <= _MOST_DIGITS:
        return fingerprint, int(digits)
    return text, 1


def _number(text: str) -> int:
    """Return a whole number of a length that numbers here may have.

    Raises:
        ValueError: It is not one, or is not written as here.
    """
    if not re.fullmatch(_NUMBER, text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def _check_moment(moment: int) -> None:
    if not -_MOMENT_LIMIT < moment < _MOMENT_LIMIT:
        raise ValueError(f"moment is {moment}; it must be microseconds since 1970, below 2**53")
