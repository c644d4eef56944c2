"""The calendar of a crontab: which wall times it names, on a clock that is never changed.

Days are counted from 1970-01-01, minutes from its midnight. Time zones do not belong in here.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from calendar import isleap
from datetime import MAXYEAR, MINYEAR, date
from functools import lru_cache

__all__ = ["Calendar", "calendar_of"]

_DAY_MINUTES = 24 * 60
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Calendar:
    """The wall times of a crontab, as minutes since 1970 on a clock that is never changed."""

    __slots__ = ("_any_day", "_days", "_hours", "_minutes", "_months", "_weekdays")

    def __init__(
        self,
        minutes: tuple[int, ...],
        hours: tuple[int, ...],
        weekdays: tuple[int, ...],
        days: tuple[int, ...],
        months: tuple[int, ...],
    ) -> None:
        self._minutes = minutes
        self._hours = hours
        self._weekdays = frozenset(weekdays)
        self._days = days
        self._months = frozenset(months)
        self._any_day = (len(weekdays), len(days), len(months)) == (7, 31, 12)

    @property
    def every_hour_or_minute(self) -> bool:
        """Whether it names no fixed times, so that it runs in both passes of a repeated hour."""
        return len(self._hours) == 24 or len(self._minutes) == 60

    @property
    def possible(self) -> bool:
        """Whether there is any such day: a month with one, and no field is empty."""
        day = any(d <= _month_length(2000, m) for m in self._months for d in self._days)
        return bool(day and self._weekdays and self._hours and self._minutes)

    def first_from(self, wall: int) -> int | None:
        """Return the first wall minute at or after ``wall``."""
        day, minute = divmod(wall, _DAY_MINUTES)
        if self._is_due_on(day):
            hour, minute = divmod(minute, 60)
            at = bisect_left(self._hours, hour)
            if at < len(self._hours) and self._hours[at] == hour:
                if minute <= self._minutes[-1]:
                    found = self._minutes[bisect_left(self._minutes, minute)]
                    return day * _DAY_MINUTES + hour * 60 + found
                at += 1
            if at < len(self._hours):
                return day * _DAY_MINUTES + self._hours[at] * 60 + self._minutes[0]
        following = self._day_from(day + 1)
        if following is None:
            return None
        return following * _DAY_MINUTES + self._hours[0] * 60 + self._minutes[0]

    def last_until(self, wall: int) -> int | None:
        """Return the last wall minute at or before ``wall``."""
        day, minute = divmod(wall, _DAY_MINUTES)
        if self._is_due_on(day):
            hour, minute = divmod(minute, 60)
            at = bisect_right(self._hours, hour) - 1
            if at >= 0 and self._hours[at] == hour:
                if minute >= self._minutes[0]:
                    found = self._minutes[bisect_right(self._minutes, minute) - 1]
                    return day * _DAY_MINUTES + hour * 60 + found
                at -= 1
            if at >= 0:
                return day * _DAY_MINUTES + self._hours[at] * 60 + self._minutes[-1]
        earlier = self._day_until(day - 1)
        if earlier is None:
            return None
        return earlier * _DAY_MINUTES + self._hours[-1] * 60 + self._minutes[-1]

    def count(self, low: int, high: int) -> int:
        """Return how many wall minutes are in ``[low, high]``."""
        if low > high:
            return 0
        first_day, first_minute = divmod(low, _DAY_MINUTES)
        last_day, last_minute = divmod(high, _DAY_MINUTES)
        total = self._due_days(first_day, last_day) * len(self._hours) * len(self._minutes)
        if self._is_due_on(first_day):
            total -= self._due_before(first_minute)
        if self._is_due_on(last_day):
            total -= len(self._hours) * len(self._minutes) - self._due_before(last_minute + 1)
        return total

    def _due_before(self, minute: int) -> int:
        hour, minute = divmod(minute, 60)
        at = bisect_left(self._hours, hour)
        total = at * len(self._minutes)
        if at < len(self._hours) and self._hours[at] == hour:
            total += bisect_left(self._minutes, minute)
        return total

    def _due_days(self, first: int, last: int) -> int:
        if self._any_day:
            return last - first + 1
        return sum(map(self._is_due_on, range(first, last + 1)))

    def _is_due_on(self, day: int) -> bool:
        if self._any_day:
            return True
        when = date.fromordinal(day + _EPOCH_DAY)
        return (
            when.day in self._days
            and when.month in self._months
            and (day + _EPOCH_DAY) % 7 in self._weekdays
        )

    def _day_from(self, day: int) -> int | None:
        if self._any_day:
            return day
        when = date.fromordinal(day + _EPOCH_DAY)
        days = self._days[bisect_left(self._days, when.day) :]
        year, month = when.year, when.month
        while year < MAXYEAR:
            if month in self._months:
                found = self._first_of(year, month, days)
                if found is not None:
                    return found
            days = self._days
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
        return None

    def _day_until(self, day: int) -> int | None:
        if self._any_day:
            return day
        when = date.fromordinal(day + _EPOCH_DAY)
        days = self._days[: bisect_right(self._days, when.day)][::-1]
        year, month = when.year, when.month
        while year > MINYEAR:
            if month in self._months:
                found = self._first_of(year, month, days)
                if found is not None:
                    return found
            days = self._days[::-1]
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
        return None

    def _first_of(self, year: int, month: int, days: tuple[int, ...]) -> int | None:
        before = date(year, month, 1).toordinal() - 1
        length = _month_length(year, month)
        for day in days:
            # Day 1 of the calendar was a Monday, and Sunday is 0.
            if day <= length and (before + day) % 7 in self._weekdays:
                return before + day - _EPOCH_DAY
        return None


@lru_cache(maxsize=1024)
def calendar_of(
    minutes: tuple[int, ...],
    hours: tuple[int, ...],
    weekdays: tuple[int, ...],
    days: tuple[int, ...],
    months: tuple[int, ...],
) -> Calendar:
    """Return the calendar of these fields, shared by the entries that have it in common."""
    return Calendar(minutes, hours, weekdays, days, months)


def _month_length(year: int, month: int) -> int:
    return 29 if month == 2 and isleap(year) else _MONTH_LENGTHS[month - 1]
