from __future__ import annotations

import itertools
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from uuid import UUID, uuid5

import pytest
from celery.schedules import crontab, schedule, solar
from hypothesis import given
from hypothesis import strategies as st

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules import occurrence_id as occurrences
from celery_safe_leader._schedules.crontab import Crontab
from celery_safe_leader._schedules.interval import Interval, RelativeInterval
from celery_safe_leader._schedules.moments import from_datetime, to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id, successor_id
from celery_safe_leader._schedules.opaque import OpaqueRule
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader._schedules.solar import Solar
from tests.unit.schedules.almanac import app_in

# Written down once; they hold for ever.
IDS = ["883dc3d0-c5aa-5d63-9428-5ebbb7785f3f", "a4929a2c-0d15-5a52-a37d-399940975a3d"]
FINGERPRINTS = ["28f752f23caa446a", "4be1682a63fab602"]

moments = st.integers(min_value=0, max_value=4_000_000_000_000_000)


class Renamed(crontab):
    """A subclass that adds nothing to the arithmetic."""

    note = "nightly"


class Overridden(crontab):
    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return False, 60.0


class OverriddenEstimate(schedule):
    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        return timedelta(seconds=1)


@pytest.mark.parametrize(
    ("given_schedule", "kind"),
    [
        (schedule(10), Interval),
        (schedule(timedelta(hours=1), relative=True, app=app_in("UTC")), RelativeInterval),
        (crontab(app=app_in("UTC")), Crontab),
        (Renamed(app=app_in("UTC")), Crontab),
        (solar("sunrise", 52.5, 13.4), Solar),
        (Overridden(app=app_in("UTC")), OpaqueRule),
        (OverriddenEstimate(10, app=app_in("UTC")), OpaqueRule),
    ],
    ids=repr,
)
def test_rule_follows_from_the_arithmetic_of_the_class(given_schedule: object, kind: type) -> None:
    assert type(rule_for(given_schedule)) is kind


def test_arithmetic_replaced_on_the_object_makes_it_unknown() -> None:
    replaced = schedule(10, app=app_in("UTC"))
    replaced.is_due = lambda last: (False, 1.0)
    assert isinstance(rule_for(replaced), OpaqueRule)


def test_object_without_is_due_is_refused() -> None:
    with pytest.raises(ScheduleError, match=r"'every day' is not a schedule: it has no is_due\(\)"):
        rule_for("every day")


@pytest.mark.parametrize("seconds", [0, -5, 0.0009, 0.000_000_1])
def test_interval_below_a_millisecond_is_refused(seconds: float) -> None:
    with pytest.raises(ScheduleError, match=r"must be at least 0\.001 s"):
        rule_for(schedule(seconds))


def test_interval_of_no_length_is_refused() -> None:
    with pytest.raises(ScheduleError, match="has the interval None"):
        rule_for(schedule())


def test_shortest_interval_is_a_millisecond() -> None:
    assert rule_for(schedule(0.001)).after(0) == 1_000


# --- grid


@given(moments, st.integers(1_000, 10**13), st.integers(0, 10**15), st.integers(1, 50))
def test_interval_stays_on_the_grid(last: int, step: int, gap: int, limit: int) -> None:
    rule = rule_for(schedule(timedelta(microseconds=step)))
    now = last + gap
    assert rule.after(last) == last + step
    count = rule.count(last, now)
    assert count == gap // step
    latest = rule.latest(last, now)
    if count:
        assert latest is not None
        assert (latest - last) % step == 0
        assert latest <= now < latest + step
    else:
        assert latest is None
    recent = rule.recent(last, now, limit)
    assert len(recent) == min(count, limit)
    assert recent == sorted(recent)
    assert recent[-1:] == ([] if latest is None else [latest])
    assert all(later - former == step for former, later in itertools.pairwise(recent))


def test_interval_of_a_second_runs_3600_times_an_hour() -> None:
    rule = rule_for(schedule(1.0))
    moment, runs = 12_345, 0
    while (following := rule.after(moment)) is not None and following <= 3_600_012_345:
        moment, runs = following, runs + 1
    assert (runs, moment) == (3600, 3_600_012_345)


def test_interval_is_elapsed_time_over_a_change_of_the_clocks() -> None:
    hour = rule_for(schedule(timedelta(hours=1), app=app_in("America/New_York")))
    day = rule_for(schedule(timedelta(days=1), app=app_in("America/New_York")))
    for start in (
        datetime(2026, 3, 8, tzinfo=timezone.utc),
        datetime(2026, 11, 1, tzinfo=timezone.utc),
    ):
        last = from_datetime(start)
        found = hour.recent(last, last + 86_400_000_000, 100)
        assert [to_datetime(m) - start for m in found] == [timedelta(hours=n) for n in range(1, 25)]
        assert day.after(last) == last + 86_400_000_000


def test_moments_end_before_datetime_does() -> None:
    rule = rule_for(schedule(timedelta(days=400_000)))
    last = from_datetime(datetime(2026, 1, 1, tzinfo=timezone.utc))
    following = rule.after(last)
    assert following is not None
    seventh = rule.after(last + 6 * 400_000 * 86_400_000_000)
    assert to_datetime(following).year == 3121
    assert seventh == last + 7 * 400_000 * 86_400_000_000
    assert rule.after(last + 7 * 400_000 * 86_400_000_000) is None


# --- moments and datetimes


@given(moments)
def test_moment_and_datetime_are_the_same_to_the_microsecond(moment: int) -> None:
    assert from_datetime(to_datetime(moment)) == moment
    assert from_datetime(to_datetime(moment).replace(tzinfo=None)) == moment


# --- ids


@given(st.text(), st.text(), moments)
def test_id_is_a_version_5_uuid_of_its_parts(key: str, entry: str, moment: int) -> None:
    identity = occurrence_id(key, entry, moment)
    name = f"{len(key)}:{key}{len(entry)}:{entry}at:{moment}"
    assert identity == str(uuid5(occurrences._NAMESPACE, name))
    assert UUID(identity).version == 5


def test_ids_in_the_field_never_change() -> None:
    # A change would give each run in flight at an upgrade a second id.
    assert occurrence_id("shop", "nightly", 1_767_225_600_000_000) == IDS[0]
    assert successor_id("shop", "nightly", 1_767_225_600_000_000) == IDS[1]


def test_ids_differ_in_each_part() -> None:
    ids = {
        occurrence_id("a", "b", 1),
        occurrence_id("a", "b", 2),
        occurrence_id("ab", "", 1),
        occurrence_id("", "ab", 1),
        occurrence_id("a1:b", "", 1),
        occurrence_id("a", "1:b", 1),
        successor_id("a", "b", 1),
    }
    assert len(ids) == 7


def test_id_takes_names_that_are_not_valid_unicode() -> None:
    assert occurrence_id("a", "\udc80", 1) != occurrence_id("a", "\udc81", 1)


# --- fingerprints


def test_fingerprints_tell_schedules_apart() -> None:
    berlin, york = app_in("Europe/Berlin"), app_in("America/New_York")
    schedules = [
        schedule(10),
        schedule(11),
        schedule(10, relative=True, app=berlin),
        schedule(10, relative=True, app=york),
        crontab(0, 3, app=berlin),
        crontab(0, 5, app=berlin),
        crontab(0, 3, app=york),
        crontab(3, 0, app=berlin),
        solar("sunrise", 52, 13),
        solar("sunset", 52, 13),
        solar("sunset", 13, 52),
        Overridden(0, 3, app=berlin),
        OverriddenEstimate(10, app=berlin),
    ]
    assert len({rule_for(each).fingerprint for each in schedules}) == len(schedules)


def test_fingerprint_is_of_what_a_schedule_means() -> None:
    berlin = app_in("Europe/Berlin")
    assert (
        rule_for(crontab("0,30", "0-23", app=berlin)).fingerprint
        == rule_for(crontab({30, 0}, "*", app=berlin)).fingerprint
    )
    assert (
        rule_for(schedule(60)).fingerprint == rule_for(schedule(timedelta(minutes=1))).fingerprint
    )
    assert rule_for(solar("sunset", 52, 13)).fingerprint == (
        rule_for(solar("sunset", 52.0, 13.0)).fingerprint
    )


def test_fingerprint_does_not_depend_on_the_process() -> None:
    program = (
        "from celery import Celery\n"
        "from celery.schedules import crontab, schedule, BaseSchedule\n"
        "from celery_safe_leader._beat.entries.rule_for import rule_for\n"
        "app = Celery('x'); app.conf.timezone = 'Europe/Berlin'\n"
        "class Own(BaseSchedule):\n"
        "    def is_due(self, last): return False, 1.0\n"
        "for s in (schedule(10), crontab('*/7', day_of_week='mon,fri', app=app), Own(app=app)):\n"
        "    print(rule_for(s).fingerprint)\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    ours = [
        rule_for(schedule(10)).fingerprint,
        rule_for(crontab("*/7", day_of_week="mon,fri", app=app_in("Europe/Berlin"))).fingerprint,
    ]
    assert answers.pop().split()[:2] == ours == FINGERPRINTS
