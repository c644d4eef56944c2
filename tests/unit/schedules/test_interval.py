from __future__ import annotations

import random
from datetime import timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import schedule
from hypothesis import given
from hypothesis import strategies as st

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules.interval import RelativeInterval
from celery_safe_leader._schedules.moments import LAST_US, to_datetime
from celery_safe_leader._schedules.rule import Rule
from tests.unit.schedules.almanac import MINUTE_US, ZONES, app_in, microseconds, year_bounds

STEPS = [timedelta(seconds=30), timedelta(minutes=5), timedelta(hours=2), timedelta(days=1)]


def relative(step: timedelta, zone: str) -> Rule:
    return rule_for(schedule(step, relative=True, app=app_in(zone)))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (timedelta(seconds=30), "2026-06-01T12:34:26Z"),
        (timedelta(seconds=90), "2026-06-01T12:35:00Z"),
        (timedelta(minutes=5), "2026-06-01T12:38:00Z"),
        (timedelta(minutes=90), "2026-06-01T14:00:00Z"),
        (timedelta(hours=2), "2026-06-01T14:00:00Z"),
        (timedelta(days=1), "2026-06-01T22:00:00Z"),  # midnight in Berlin
        (timedelta(days=2), "2026-06-02T22:00:00Z"),
    ],
)
def test_moment_is_rounded_down_to_the_unit_of_the_local_clock(
    step: timedelta, expected: str
) -> None:
    last = microseconds("2026-06-01T12:33:56Z") + 789
    assert relative(step, "Europe/Berlin").after(last) == microseconds(expected)


def test_full_hours_are_those_of_a_zone_with_half_hours() -> None:
    found = relative(timedelta(hours=1), "Asia/Kolkata").after(microseconds("2026-06-01T12:10:00Z"))
    assert found == microseconds("2026-06-01T12:30:00Z")  # 18:00 there


def test_below_a_second_nothing_is_rounded() -> None:
    assert relative(timedelta(milliseconds=200), "UTC").after(1_234_567) == 1_434_567


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_next_moment_is_that_of_celery_away_from_changes_of_the_clocks(
    zone: str, step: timedelta
) -> None:
    own = schedule(step, relative=True, app=app_in(zone))
    rule = rule_for(own)
    tz = ZoneInfo(zone)
    dice = random.Random(str((zone, step)))
    after, until = year_bounds(2026)
    compared = 0
    for _ in range(200):
        last = to_datetime(dice.randint(after, until)).astimezone(tz)
        around = {(last + timedelta(days=n)).utcoffset() for n in (-1, 0, 1, 2)}
        if len(around) > 1:
            continue
        own.nowfun = lambda last=last: last
        expected = last.astimezone(timezone.utc) + own.remaining_estimate(last)
        found = rule.after(microseconds(last.isoformat()))
        assert found is not None
        assert to_datetime(found) == expected
        compared += 1
    assert compared > 150


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_moments_rise_over_changes_of_the_clocks(zone: str, step: timedelta) -> None:
    rule = relative(step, zone)
    for change in ("2026-03-08T", "2026-03-29T", "2026-04-05T", "2026-10-04T", "2026-10-25T"):
        moment = microseconds(change + "00:00Z") - 12 * 60 * MINUTE_US
        end = moment + 48 * 60 * MINUTE_US
        while moment < end:
            following = rule.after(moment)
            assert following is not None
            assert moment < following <= moment + step // timedelta(microseconds=1) + 60 * MINUTE_US
            moment = following


def test_days_are_midnights_of_the_calendar() -> None:
    rule = relative(timedelta(days=1), "America/New_York")
    moment = microseconds("2026-01-01T05:00Z")
    tz = ZoneInfo("America/New_York")
    for _ in range(364):
        following = rule.after(moment)
        assert following is not None
        former, later = (to_datetime(m).astimezone(tz) for m in (moment, following))
        assert later.date() - former.date() == timedelta(days=1)
        assert (later.hour, later.minute) == (0, 0)
        moment = following


def test_midnight_that_comes_twice_is_passed_by_its_second_coming() -> None:
    # Goose Bay set its clocks back at 00:01, to 23:01 of the day before.
    rule = relative(timedelta(days=1), "America/Goose_Bay")
    second_pass = microseconds("2010-11-07T03:30Z")  # 23:30 again
    assert rule.after(second_pass) == microseconds("2010-11-07T04:00Z")


@given(
    st.integers(0, 2 * 10**15),
    st.sampled_from([0, 10, 3_600, 90_000, 9_000_000]),
    st.sampled_from([timedelta(seconds=7), timedelta(minutes=5), timedelta(hours=7), timedelta(2)]),
    st.sampled_from(ZONES),
)
def test_searches_agree_with_the_chain(
    start: int, seconds: int, step: timedelta, zone: str
) -> None:
    rule = relative(step, zone)
    until = start + min(seconds, 500 * int(step.total_seconds())) * 1_000_000
    chain = []
    moment = rule.after(start)
    while moment is not None and moment <= until:
        chain.append(moment)
        moment = rule.after(moment)
    assert rule.count(start, until) == len(chain)
    assert rule.recent(start, until, 3) == chain[-3:]
    assert rule.latest(start, until) == (chain[-1] if chain else None)


def test_ends_with_none() -> None:
    assert relative(timedelta(days=1), "UTC").after(LAST_US) is None


def count_questions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets each moment after which the next one is asked for."""
    asked: list[int] = []
    after = RelativeInterval.after

    def note(self: RelativeInterval, moment: int) -> int | None:
        asked.append(moment)
        return after(self, moment)

    monkeypatch.setattr(RelativeInterval, "after", note)
    return asked


@pytest.mark.parametrize("zone", [*ZONES, "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "step", [timedelta(hours=1), timedelta(hours=7), timedelta(1), timedelta(3)]
)
def test_years_are_found_as_the_chain_finds_them_with_few_questions(
    zone: str, step: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = relative(step, zone)
    start, end = year_bounds(2024)[0] + 12_345_678, year_bounds(2026)[1]
    chain, moment = [], rule.after(start)
    while moment is not None and moment <= end:
        chain.append(moment)
        moment = rule.after(moment)
    asked = count_questions(monkeypatch)
    assert rule.count(start, end) == len(chain)
    assert rule.recent(start, end, 1) == chain[-1:]
    assert rule.recent(start, end, 40) == chain[-40:]
    assert rule.recent(start, end, 10**6) == chain
    # Some for each change of the clocks, not one for each hour.
    assert len(asked) < 200


def test_a_last_run_of_1970_costs_no_more_than_there_were_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = count_questions(monkeypatch)
    for step in (timedelta(seconds=7), timedelta(minutes=5), timedelta(hours=1), timedelta(days=1)):
        rule = relative(step, "Europe/Berlin")
        assert rule.count(0, year_bounds(2026)[1]) > 20_000
        assert len(rule.recent(0, year_bounds(2026)[1], 1)) == 1
    assert len(asked) < 2_000
