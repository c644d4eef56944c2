"""Crontabs: wall times of a calendar on a time line, with a stated rule for changes of the clocks.

* A wall time that the clocks skip runs once, as late as if they had not been changed: 02:30 in New
  York's spring night runs at 03:30. Where that is a moment that is due anyway, it runs once.
* In the hour that the clocks repeat a crontab with *every* hour or *every* minute (all 24 or all
  60, however written) runs in both passes. Any other names fixed times and runs in the first only.

Celery's own arithmetic is the same outside the repeated hour. In it, it loses the second pass and,
asked from within, answers moments that are over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_safe_leader._schedules.moments import DAY_US, LAST_US, MINUTE_US
from celery_safe_leader._schedules.rule import Rule, ScheduleError, digest
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader._schedules.wall_calendar import calendar_of
from celery_safe_leader._schedules.zones import Piece, Zone, zone_name

__all__ = ["Crontab"]

# What one offset finds holds for another with two days to spare: no two differ by more.
_SPARE_US = 2 * DAY_US


class Crontab(Rule):
    """The moments of a calendar in a time zone."""

    __slots__ = ("_calendar", "_zone")

    def __init__(self, schedule: Any, fields: tuple[tuple[int, ...], ...], zone: Zone) -> None:
        super().__init__(schedule, digest("crontab", fields, zone_name(zone.tz)))
        self._calendar = calendar_of(*fields)
        self._zone = zone
        if not self._calendar.possible:
            raise ScheduleError(safe_repr(schedule), "names a date that does not exist in any year")

    def after(self, moment_us: int) -> int | None:
        """Return the first due moment later than ``moment_us``, skipping days that are not due."""
        start = moment_us + 1
        while start < LAST_US:
            piece = self._zone.piece(start)
            found = self._first_from(start, piece)
            if found is not None and found < piece.end_us:
                return found
            start = piece.end_us if found is None else _skip(start, piece, found)
        return None

    def latest(self, after_us: int, until_us: int) -> int | None:
        """Return the last due moment in ``(after_us, until_us]``, searching backwards."""
        end = min(until_us, LAST_US)
        while end > after_us:
            piece = self._zone.piece(end)
            found = self._last_until(end, piece)
            if found is not None and found >= piece.start_us:
                return found if found > after_us else None
            end = piece.start_us - 1
        return None

    def recent(self, after_us: int, until_us: int, limit: int) -> list[int]:
        """Return the last due moments, found from the end."""
        moments: list[int] = []
        moment = self.latest(after_us, until_us)
        while moment is not None and len(moments) < limit:
            moments.append(moment)
            moment = self.latest(after_us, moment - 1)
        return moments[::-1]

    def count(self, after_us: int, until_us: int) -> int:
        """Return how many due moments are in ``(after_us, until_us]``, counting day by day."""
        start, end = after_us + 1, min(until_us, LAST_US)
        total = 0
        while start <= end:
            piece = self._zone.piece(start)
            high = min(piece.end_us - 1, end)
            offsets = self._of(piece)
            if len(offsets) == 1:
                total += self._calendar.count(
                    -(-(start + offsets[0]) // MINUTE_US), (high + offsets[0]) // MINUTE_US
                )
            else:  # the same moment may have two wall times
                total += len(set(self._moments(start, high, offsets)))
            start = piece.end_us
        return total

    def _of(self, piece: Piece) -> tuple[int, ...]:
        if piece.repeats and not self._calendar.every_hour_or_minute:
            return ()
        return piece.offsets_us

    def _first_from(self, start: int, piece: Piece) -> int | None:
        first = None
        for offset in self._of(piece):
            wall = self._calendar.first_from(-(-(start + offset) // MINUTE_US))
            if wall is not None:
                moment = wall * MINUTE_US - offset
                first = moment if first is None else min(first, moment)
        return first

    def _last_until(self, end: int, piece: Piece) -> int | None:
        last = None
        for offset in self._of(piece):
            wall = self._calendar.last_until((end + offset) // MINUTE_US)
            if wall is not None:
                moment = wall * MINUTE_US - offset
                last = moment if last is None else max(last, moment)
        return last

    def _moments(self, low: int, high: int, offsets: tuple[int, ...]) -> Iterator[int]:
        for offset in offsets:
            wall = self._calendar.first_from(-(-(low + offset) // MINUTE_US))
            while wall is not None and wall * MINUTE_US - offset <= high:
                yield wall * MINUTE_US - offset
                wall = self._calendar.first_from(wall + 1)


def _skip(start: int, piece: Piece, found: int) -> int:
    # Under another offset nothing is due long before what this one found, so a rare date does not
    # cost a visit to each change of the clocks in between.
    if piece.end_us - start > _SPARE_US:
        return max(piece.end_us, found - _SPARE_US)
    return piece.end_us
