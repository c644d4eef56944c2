"""The sentinel: the field with which both hashes say whose they are and whether they are whole.

Scripts write it (``sentinel.lua`` says how); here it is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "FORMAT",
    "REPLACED",
    "SENTINEL",
    "ExecutedSteps",
    "Pause",
    "PauseRecord",
    "Ranges",
    "ScriptStatus",
    "Sentinel",
    "decode_pause",
    "decode_sentinel",
    "decode_status",
]

FORMAT = 2
"""Newest format that is known: that of a paused ledger. It rises with each change that an older
release would misread."""

SENTINEL = b"\xffledger"
"""Field with the format and the generation of a hash. No UTF-8 string has the byte 255."""

REPLACED = "replaced-"
"""Begins a generation that no leader made: people replaced the ledger, or renamed an entry."""

_MOST_DIGITS = 16
_GENERATION = re.compile(r"([^/+]+)/?([0-9]*)\+?([0-9,-]*)")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")


_MOST_RANGES = 1_000
"""A range ends where a request failed for good. The oldest are of no use to anybody by then."""

Ranges = tuple[tuple[int, int], ...]
"""First and last step of each stretch."""


class ExecutedSteps:
    """Steps that replies and sentinels showed. For one thread."""

    def __init__(self) -> None:
        self._ranges: list[tuple[int, int]] = []

    def add(self, ranges: Ranges) -> None:
        """Add what was shown."""
        for first, last in ranges:
            self._add(first, last)

    def _add(self, first: int, last: int) -> None:
        ranges = self._ranges
        if ranges and ranges[-1][0] <= first <= ranges[-1][1] + 1:
            # Nearly always: steps are executed in their order.
            ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
        elif first <= last:
            ranges.append((first, last))
            del ranges[:-_MOST_RANGES]

    def __contains__(self, step: int) -> bool:
        return any(first <= step <= last for first, last in self._ranges)


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause that is in force: nothing is published or claimed."""

    number: int
    """Of all pauses of the ledger; the later one has the higher number."""
    until_us: int
    """When it ends by Redis's clock, in microseconds since 1970; 0 if it has no end."""


@dataclass(frozen=True, slots=True)
class PauseRecord:
    """The last pause of a ledger, which may be over."""

    number: int
    until_us: int
    in_force: bool

    @property
    def pause(self) -> Pause | None:
        """The pause, if it is in force."""
        return Pause(self.number, self.until_us) if self.in_force else None

    def encode(self) -> tuple[str, str, str]:
        """Return number, end and state, as adopt takes them."""
        return str(self.number), str(self.until_us), "2" if self.in_force else "1"


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
    mark: str = ""
    """Changes whenever a moment is set back or an entry goes. Empty if the ledger is partial, or
    was written by a release that knows no marks."""
    executed: Ranges = ()
    """Steps that were executed since the last one that was answered; the last one at least."""


class ScriptStatus(NamedTuple):
    """What every script that was accepted says first."""

    pause: PauseRecord | None
    executed: Ranges
    """Steps that were executed since the last one that was answered, if there are others than
    that of the script itself."""


def decode_sentinel(raw: bytes) -> Sentinel | None:
    """Return a sentinel that a script found well-formed; ``None`` if there is none."""
    parts = raw.decode("utf-8", "replace").split(" ", 4)
    if len(parts) != 5 or not (parts[2].isascii() and parts[2].isdigit()):
        return None
    _, generation, step, state, owner = parts
    word, _, rest = state.partition("/")
    mark = rest.partition("/")[0] if word == "whole" else ""
    last, steps = _number(step), ""
    if found := _GENERATION.fullmatch(generation):
        generation, _, steps = found.groups()
    executed = _ranges(steps) or ((last, last),)
    return Sentinel(generation, last, word == "partial", owner, mark, executed)


def decode_pause(raw: bytes) -> Pause | None:
    """Return the pause that a sentinel names as in force; it may have run out by Redis's clock."""
    parts = raw.decode("utf-8", "replace").split(" ", 4)
    state = parts[3].split("/") if len(parts) == 5 and parts[0] == "2" else []
    if len(state) != 4 or not all(each.isascii() and each.isdigit() for each in state[2:]):
        return None
    return Pause(_number(state[2]), _number(state[3]))


def decode_status(raw: bytes) -> ScriptStatus:
    """Return the first field of a reply: ``OK``, ``OK 2 7 0``, ``OK 3-5``, ``OK 2 7 0 3-5``."""
    parts = raw.decode("ascii", "replace").split(" ")[1:]
    steps = parts.pop() if len(parts) in (1, 4) else ""
    pause = None
    if parts:
        pause = PauseRecord(_number(parts[1]), _number(parts[2]), parts[0] == "2")
    return ScriptStatus(pause, _ranges(steps))


def _ranges(steps: str) -> Ranges:
    return tuple((_number(first), _number(last)) for first, last in _RANGE.findall(steps))


def _number(digits: str) -> int:
    # As many as a number has that Lua can count to: the script compared it, so it is one.
    return int(digits[:_MOST_DIGITS])
