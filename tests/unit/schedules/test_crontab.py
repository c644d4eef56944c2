from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from datetime import datetime, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules.moments import LAST_US, from_datetime, to_datetime
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from tests.unit.schedules.almanac import (
    MINUTE_US,
    ZONES,
    app_in,
    due_minutes,
    microseconds,
    year_bounds,
)

YEAR = 2026
HOUR_US = 60 * MINUTE_US

# Fields of crontab, and whether it runs in both passes of a repeated hour.
SPREAD = [
    ({}, True),
    ({"minute": "*/30"}, True),
    ({"minute": "7,23"}, True),
    ({"minute": 0, "hour": "0-23"}, True),
    ({"hour": 1}, True),
    ({"minute": "*/15", "hour": "1-2"}, False),
    ({"minute": 30, "hour": "*/2"}, False),
    ({"minute": "0,30", "hour": "1,2,3"}, False),
    ({"minute": 45, "hour": 1, "day_of_week": "sun"}, False),
    ({"minute": 10, "day_of_week": "mon-fri"}, True),
    ({"minute": 0, "hour": 0, "day_of_month": "1,15,31"}, False),
    ({"minute": 59, "hour": 23, "day_of_month": "28-31", "month_of_year": "2,4,11"}, False),
    ({"minute": 5, "hour": 4, "day_of_week": 1, "day_of_month": "1-7"}, False),
    ({"minute": "*/20", "hour": "22-3", "month_of_year": "3,4,10,11"}, False),
]


def rule_in(zone: str, **fields: object) -> Rule:
    return rule_for(crontab(**fields, app=app_in(zone)))


def follow(rule: Rule, after: int, until: int) -> list[int]:
    moments = []
    moment = rule.after(after)
    while moment is not None and moment <= until:
        moments.append(moment)
        moment = rule.after(moment)
    return moments


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("fields", "both"), SPREAD, ids=[str(fields) for fields, _ in SPREAD])
def test_year_and_its_changes_of_the_clock_are_those_of_the_calendar(
    zone: str, fields: dict[str, object], both: bool
) -> None:
    schedule = crontab(**fields, app=app_in(zone))
    rule = rule_for(schedule)
    expected = due_minutes(schedule, zone, YEAR, both)
    assert len(expected) > 3
    after, until = year_bounds(YEAR)
    # A year of minutes is followed around the changes and sampled elsewhere.
    if len(expected) < 20_000:
        assert follow(rule, after, until) == expected
    assert rule.count(after, until) == len(expected)
    dice = random.Random(str((zone, fields)))
    for _ in range(100):
        low, high = sorted(dice.randint(after, until) for _ in range(2))
        check_against(expected, rule, low, high, until)
    for change in changes_of(zone):
        for minutes in range(-300, 300, 7):
            low = change + minutes * MINUTE_US
            check_against(expected, rule, low - 1, low + 3 * HOUR_US, until)
            check_against(expected, rule, low, low + 50 * MINUTE_US, until)


def check_against(expected: list[int], rule: Rule, low: int, high: int, until: int) -> None:
    first, last = bisect_right(expected, low), bisect_right(expected, high)
    found = rule.after(low)
    if first < len(expected):
        assert found == expected[first]
    else:
        assert found is None or found > until
    assert rule.latest(low, high) == (expected[last - 1] if last > first else None)
    assert rule.recent(low, high, 5) == expected[max(first, last - 5) : last]
    assert rule.count(low, high) == last - first


@cache
def changes_of(zone: str) -> list[int]:
    after, until = year_bounds(YEAR)
    tz = ZoneInfo(zone)
    offsets = [
        (at, to_datetime(at).astimezone(tz).utcoffset())
        for at in range(after + 1, until, 30 * MINUTE_US)
    ]
    return [later[0] for former, later in itertools.pairwise(offsets) if former[1] != later[1]]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("hour", range(24))
def test_each_fixed_hour_runs_once_on_every_day_of_the_year(zone: str, hour: int) -> None:
    schedule = crontab(minute=15, hour=hour, app=app_in(zone))
    after, until = year_bounds(YEAR)
    found = follow(rule_for(schedule), after, until)
    assert found == due_minutes(schedule, zone, YEAR, False)
    assert len(found) == 365


def test_wildcards_run_in_both_passes_of_the_repeated_hour() -> None:
    found = follow(
        rule_in("America/New_York", minute="*/30"),
        microseconds("2026-11-01T04:30Z"),
        microseconds("2026-11-01T07:00Z"),
    )
    assert [to_datetime(moment).strftime("%H:%M") for moment in found] == [
        "05:00", "05:30", "06:00", "06:30", "07:00",
    ]  # fmt: skip


def test_moment_inside_the_second_pass_is_followed_by_a_later_one() -> None:
    last = microseconds("2026-11-01T06:10Z")
    found = rule_in("America/New_York", minute="*/30").after(last)
    assert found == microseconds("2026-11-01T06:30Z")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-10-31T12:00Z", "2026-11-01T05:30Z"),  # the first of both 01:30
        ("2026-11-01T05:30Z", "2026-11-02T06:30Z"),  # not the second
        ("2026-11-01T06:10Z", "2026-11-02T06:30Z"),
    ],
)
def test_fixed_time_runs_in_the_first_pass_only(after: str, expected: str) -> None:
    rule = rule_in("America/New_York", minute=30, hour=1)
    assert rule.after(microseconds(after)) == microseconds(expected)


@pytest.mark.parametrize(
    ("zone", "hour", "skipped_day", "expected"),
    [
        ("America/New_York", 2, "2026-03-08T00:00Z", "2026-03-08T07:30Z"),  # 03:30 local
        ("Europe/Berlin", 2, "2026-03-28T12:00Z", "2026-03-29T01:30Z"),  # 03:30 local
        ("Africa/Cairo", 0, "2026-04-23T12:00Z", "2026-04-23T22:30Z"),  # 01:30 local
        ("America/Nuuk", 23, "2026-03-28T12:00Z", "2026-03-29T01:30Z"),  # 00:30 of the next day
    ],
)
def test_skipped_time_runs_as_late_as_if_the_clocks_had_not_changed(
    zone: str, hour: int, skipped_day: str, expected: str
) -> None:
    rule = rule_in(zone, minute=30, hour=hour)
    assert rule.after(microseconds(skipped_day)) == microseconds(expected)


def test_skipped_time_that_meets_a_due_one_runs_once() -> None:
    rule = rule_in("America/New_York", minute=30, hour="2,3")
    low, high = microseconds("2026-03-08T05:00Z"), microseconds("2026-03-09T05:00Z")
    assert follow(rule, low, high) == [microseconds("2026-03-08T07:30Z")]
    assert rule.count(low, high) == 1


def test_day_that_a_zone_left_out_runs_on_the_next() -> None:
    # Samoa had no 30 December 2011; 10:00 of it falls on 10:00 of the 31st.
    rule = rule_in("Pacific/Apia", minute=0, hour=10)
    low, high = microseconds("2011-12-28T12:00Z"), microseconds("2012-01-01T12:00Z")
    found = follow(rule, low, high)
    assert [str(to_datetime(m).astimezone(ZoneInfo("Pacific/Apia")))[:16] for m in found] == [
        "2011-12-28 10:00", "2011-12-29 10:00", "2011-12-31 10:00", "2012-01-01 10:00",
    ]  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(("fields", "both"), SPREAD, ids=[str(fields) for fields, _ in SPREAD])
def test_next_moment_is_that_of_celery_outside_the_repeated_hour(
    zone: str, fields: dict[str, object], both: bool
) -> None:
    schedule = crontab(**fields, app=app_in(zone))
    rule = rule_for(schedule)
    changes = changes_of(zone)
    dice = random.Random(str((zone, fields)))
    after, until = year_bounds(YEAR)
    compared = 0
    for _ in range(150):
        last = dice.randint(after, until) // 1000 * 1000
        found = rule.after(last)
        assert found is not None
        if any(last - 2 * HOUR_US < at < found + 2 * HOUR_US for at in changes):
            continue
        local = to_datetime(last).astimezone(ZoneInfo(zone))
        schedule.nowfun = lambda local=local: local  # Celery 5.4 looks at it
        start, delta, _now = schedule.remaining_delta(local)
        assert from_datetime((start + delta).astimezone(timezone.utc)) == found
        compared += 1
    assert compared > 20


def test_impossible_date_is_an_error_and_no_endless_search() -> None:
    schedule = crontab(0, 0, day_of_month=28, month_of_year=2)
    schedule.day_of_month = {30}  # what Celery itself refuses since 5.5
    with pytest.raises(ScheduleError, match=r"2.*names a date that does not exist in any year"):
        rule_for(schedule)


def test_empty_field_is_an_error() -> None:
    schedule = crontab(0, 0)
    schedule.hour = set()
    with pytest.raises(ScheduleError, match="does not exist"):
        rule_for(schedule)


def test_rarest_date_is_found_in_both_directions() -> None:
    rule = rule_in("UTC", minute=0, hour=0, day_of_month=29, month_of_year=2, day_of_week="mon")
    after = microseconds("2072-03-01T00:00Z")  # 29 February 2072 was a Monday, 2100 has none
    first = rule.after(after)
    assert first is not None
    assert str(to_datetime(first).date()) == "2112-02-29"
    assert rule.latest(after, first + 365 * 24 * HOUR_US) == first
    assert rule.latest(0, after) == microseconds("2072-02-29T00:00Z")
    assert rule.latest(after, first - 1) is None


def test_calendar_ends_with_none() -> None:
    rule = rule_in("Europe/Berlin", minute=0, hour=0, day_of_month=29, month_of_year=2)
    assert rule.after(LAST_US) is None
    assert rule.after(LAST_US - 300 * 24 * HOUR_US) is None


def test_dates_are_those_of_a_calendar_walked_day_by_day() -> None:
    dice = random.Random(1)
    for _ in range(60):
        schedule = crontab(
            minute=0,
            hour=12,
            day_of_week=set(dice.sample(range(7), dice.randint(1, 7))),
            day_of_month=set(dice.sample(range(1, 32), dice.randint(1, 31))),
            month_of_year={1, *dice.sample(range(1, 13), dice.randint(1, 12))},
            app=app_in("UTC"),
        )
        start = datetime(2024, 1, 1, 12, tzinfo=timezone.utc)
        days = [start + timedelta(days=n) for n in range(366 * 3)]
        expected = [
            from_datetime(day)
            for day in days
            if day.isoweekday() % 7 in schedule.day_of_week
            and day.day in schedule.day_of_month
            and day.month in schedule.month_of_year
        ]
        low, high = from_datetime(days[0]) - 1, from_datetime(days[-1])
        rule = rule_for(schedule)
        assert follow(rule, low, high) == expected
        assert rule.recent(low, high, 10_000) == expected
        assert rule.count(low, high) == len(expected)


def test_seconds_in_old_offsets_are_kept() -> None:
    # Until 1883 New York was 4:56:02 behind.
    rule = rule_in("America/New_York", minute=0, hour=12)
    found = rule.after(microseconds("1880-06-01T00:00Z"))
    assert found == microseconds("1880-06-01T16:56:02Z")
