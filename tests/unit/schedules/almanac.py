"""A year of a time zone, walked minute by minute: the calendar that rules are checked against.

It asks the zone for its offset at moments in UTC and for nothing else. A minute whose wall time
was shown before is a repeat; a wall time that no minute shows is skipped, and is given the minute
at which the unchanged clock would have shown it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo

from celery import Celery
from celery.schedules import crontab

MINUTE_US = 60_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

ZONES = ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"]


# UTC minute, day of the wall clock since 1970, and whether its wall time was shown before.
Minute = tuple[int, int, bool]


@cache
def app_in(zone: str) -> Celery:
    app = Celery("almanac", set_as_current=False)
    app.conf.timezone = zone
    return app


def microseconds(text: str) -> int:
    """``2026-11-01T05:30Z`` as a moment."""
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH) // timedelta(
        microseconds=1
    )


def year_bounds(year: int) -> tuple[int, int]:
    """The last microsecond before a UTC year, and its last microsecond."""
    return microseconds(f"{year}-01-01T00:00Z") - 1, microseconds(f"{year + 1}-01-01T00:00Z") - 1


@cache
def walk(zone: str, year: int) -> dict[int, list[Minute]]:
    """All minutes of a UTC year by the minute of the day that their wall clock shows."""
    tz = ZoneInfo(zone)
    shown: dict[int, list[Minute]] = defaultdict(list)
    after, until = year_bounds(year)
    start, end = (after + 1) // MINUTE_US, (until + 1) // MINUTE_US
    previous = highest = start - 1 + _offset(start - 1, tz)
    offset = 0
    for utc in range(start, end):
        if utc % 15 == 0:  # none of these zones changes its clocks off a quarter of an hour
            offset = _offset(utc, tz)
        wall = utc + offset
        for late, skipped in enumerate(range(previous + 1, wall)):
            shown[skipped % 1440].append((utc + late, skipped // 1440, False))
        shown[wall % 1440].append((utc, wall // 1440, wall <= highest))
        highest = max(highest, wall)
        previous = wall
    return shown


def _offset(utc: int, tz: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(utc * 60, tz).utcoffset()
    assert offset is not None
    return offset // timedelta(minutes=1)


def due_minutes(schedule: crontab, zone: str, year: int, both_passes: bool) -> list[int]:
    """The moments of a crontab in a year, from the walk."""
    shown = walk(zone, year)
    days = _due_days(schedule, year)
    return sorted(
        {
            utc * MINUTE_US
            for hour in schedule.hour
            for number in schedule.minute
            for utc, day, repeat in shown[hour * 60 + number]
            if day in days and (both_passes or not repeat)
        }
    )


def _due_days(schedule: crontab, year: int) -> set[int]:
    first = EPOCH.replace(year=year) - timedelta(days=1)
    days = [first + timedelta(days=n) for n in range(368)]
    return {
        (day - EPOCH).days
        for day in days
        if day.day in schedule.day_of_month
        and day.month in schedule.month_of_year
        and day.isoweekday() % 7 in schedule.day_of_week
    }
