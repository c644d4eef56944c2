"""The line of UTC time, cut at the changes of a time zone's offset.

Calendar arithmetic is easy while the offset stands still and a trap where it does not. So the line
is cut into pieces with a constant offset, and what is special about a change is a property of the
piece after it:

* after a jump forward (clocks skip an hour) the skipped wall times are due too, each as late as if
  the clock had not been changed. Such a piece has two offsets, the new one and the old one;
* after a jump back (an hour repeats) the wall times come a second time. Such a piece is a repeat.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime, timedelta, tzinfo
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from celery_safe_leader._schedules.moments import DAY_US, SECOND_US, from_timedelta, to_datetime

__all__ = ["Piece", "Zone", "zone_name", "zone_of"]

# A chunk is what is worked out at once: 404 readings of the offset, half a millisecond.
_CHUNK_US = 400 * DAY_US
# No zone was ever changed by more than a day, so effects of a change end within two.
_MARGIN_US = 2 * DAY_US


class Piece(NamedTuple):
    """A stretch ``[start_us, end_us)`` of UTC time with one offset, or two after a skip."""

    start_us: int
    end_us: int
    offsets_us: tuple[int, ...]
    repeats: bool


class Zone:
    """A time zone as pieces, which are worked out when asked for, and kept. Thread-safe."""

    def __init__(self, tz: tzinfo) -> None:
        self.tz = tz
        self._chunks: dict[int, tuple[list[int], list[Piece]]] = {}

    def piece(self, moment_us: int) -> Piece:
        """Return the piece that a moment lies in."""
        index = moment_us // _CHUNK_US
        chunk = self._chunks.get(index)
        if chunk is None:
            pieces = self._cut(index * _CHUNK_US, (index + 1) * _CHUNK_US)
            chunk = self._chunks[index] = ([piece.start_us for piece in pieces], pieces)
        return chunk[1][bisect_right(chunk[0], moment_us) - 1]

    def offset_us(self, moment_us: int) -> int:
        """Return what is added to UTC at a moment, in microseconds."""
        offset = to_datetime(moment_us).astimezone(self.tz).utcoffset()
        return from_timedelta(offset or timedelta())

    def moment_of(self, wall: datetime, later_than_us: int) -> int:
        """Return the first moment of a local wall time that is later than ``later_than_us``.

        A wall time that was skipped counts by the offset before the change. The caller makes sure
        that the wall time does not lie wholly before ``later_than_us``.
        """
        moments = [
            _wall_us(wall) - from_timedelta(local.utcoffset() or timedelta())
            for local in (wall.replace(tzinfo=self.tz, fold=fold) for fold in (0, 1))
        ]
        return moments[0] if moments[0] > later_than_us else moments[1]

    def _cut(self, start_us: int, end_us: int) -> list[Piece]:
        first_us = start_us - _MARGIN_US
        offset = self.offset_us(first_us)
        pieces = []
        since_us, offsets, repeats = first_us, (offset,), False
        for change_us, new in self._changes(first_us, end_us):
            pieces.append(Piece(since_us, change_us, offsets, repeats))
            effect_us = change_us + abs(new - offset)
            after_skip = (new, offset) if new > offset else (new,)
            pieces.append(Piece(change_us, effect_us, after_skip, new < offset))
            since_us, offset, offsets = effect_us, new, (new,)
        pieces.append(Piece(since_us, max(end_us, since_us), offsets, repeats))
        clipped = (
            p._replace(start_us=max(p.start_us, start_us), end_us=min(p.end_us, end_us))
            for p in pieces
        )
        return [piece for piece in clipped if piece.start_us < piece.end_us]

    def _changes(self, start_us: int, end_us: int) -> list[tuple[int, int]]:
        changes = []
        low_us, old = start_us, self.offset_us(start_us)
        while low_us < end_us:
            high_us = min(low_us + DAY_US, end_us)
            new = self.offset_us(high_us)
            if new != old:
                changes.append((self._change_between(low_us, high_us, old), new))
            low_us, old = high_us, new
        return changes

    def _change_between(self, low_us: int, high_us: int, old: int) -> int:
        low, high = low_us // SECOND_US, high_us // SECOND_US
        while high - low > 1:
            middle = (low + high) // 2
            if self.offset_us(middle * SECOND_US) == old:
                low = middle
            else:
                high = middle
        return high * SECOND_US


def zone_of(tz: tzinfo | str) -> Zone:
    """Return the pieces of a time zone, shared by all rules of that zone."""
    if isinstance(tz, str):
        return _shared(ZoneInfo(tz))
    pytz_name = getattr(tz, "zone", None)
    if pytz_name:  # pytz's zones do not follow datetime's protocol for wall times
        return _shared(ZoneInfo(pytz_name))
    try:
        return _shared(tz)
    except TypeError:  # dateutil's zones cannot be hashed
        return Zone(tz)


def zone_name(tz: tzinfo) -> str:
    """Return the name of a time zone for a fingerprint."""
    return str(getattr(tz, "key", None) or tz)


@cache
def _shared(tz: tzinfo) -> Zone:
    return Zone(tz)


def _wall_us(wall: datetime) -> int:
    return from_timedelta(wall - datetime(1970, 1, 1))  # noqa: DTZ001
