"""Ids of runs that another scheduler's store keeps."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from importlib.metadata import entry_points
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_safe_leader._beat.mixin.attempt import prepare_attempt, run_id
from tests.support.processes import Children

APP = Celery("shop", set_as_current=False)
NOW = datetime.now(timezone.utc)


def first(run: str) -> int:
    """Count the first message of a run."""
    return 1


def entry(plan: Any, last: datetime | None, name: str = "work", **more: Any) -> ScheduleEntry:
    made = ScheduleEntry(name, "shop.work", last, schedule=plan, app=APP, **more)
    made.last_run_at = last
    return made


def id_of(plan: Any, last: datetime | None, *, name: str = "work", key: str = "shop") -> str | None:
    return run_id(entry(plan, last, name), plan, key)


def test_two_processes_give_a_run_the_same_id():
    last = NOW - timedelta(minutes=90)
    assert id_of(schedule(3600.0), last) == id_of(schedule(3600.0), last) is not None
    assert id_of(crontab(minute="*/20", app=APP), last) == id_of(
        crontab(minute="0,20,40", app=APP), last
    )


def test_no_two_runs_have_one_id():
    last = NOW - timedelta(minutes=90)
    ids = [
        id_of(schedule(3600.0), last),
        id_of(schedule(3600.0), last, name="other"),
        id_of(schedule(3600.0), last, key="other"),
        # Told to run anew, or a store that lost the last run.
        id_of(schedule(3600.0), last - timedelta(microseconds=1)),
        id_of(schedule(3600.0), last - timedelta(hours=1)),
        # The same last run, and another moment due since.
        id_of(schedule(1800.0), last),
        id_of(schedule(900.0), last - timedelta(hours=1)),
    ]
    assert len({*ids}) == len(ids)
    assert all(text is not None and uuid.UUID(text).version == 5 for text in ids)


class Odd(schedule):
    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return True, 1.0


@pytest.mark.parametrize(
    ("plan", "last"),
    [
        (schedule(3600.0), None),
        (schedule(3600.0), NOW),
        (schedule(3600.0), NOW - timedelta(days=365 * 30)),
        (Odd(3600.0, app=APP), NOW - timedelta(hours=2)),
        (object(), NOW - timedelta(days=2)),
    ],
    ids=["never run", "not due", "decades ago", "own class", "no schedule"],
)
def test_without_a_moment_there_is_no_id_and_the_message_is_one_like_any_other(
    plan: Any, last: datetime | None
):
    made = entry(schedule(3600.0), last)
    assert run_id(made, plan, "shop") is None
    message = prepare_attempt(made, plan, "shop", 7, first)
    assert message.options == {"retry": False, "headers": {"leader_token": 7}}


def test_options_that_are_a_property_of_the_entry_s_class_are_those_of_the_attempt():
    class Kept(ScheduleEntry):
        @property
        def options(self) -> Any:
            return self.kept

        @options.setter
        def options(self, value: Any) -> None:
            self.kept = value

    options = {"queue": "slow"}
    last = NOW - timedelta(hours=2)
    made = Kept("work", "shop.work", last, schedule=schedule(3600.0), app=APP, options=options)
    message = prepare_attempt(made, made.schedule, "shop", 7, first)
    assert message.options["task_id"] == run_id(made, made.schedule, "shop") is not None
    assert made.options == {"queue": "slow"}


def test_preparing_leaves_the_entry_as_it_is():
    options = {"headers": {"mine": 1}, "queue": "slow", "leader": {"limit": 3}}
    made = entry(schedule(3600.0), NOW - timedelta(hours=2), options=options)
    one = prepare_attempt(made, made.schedule, "shop", 7, first)
    again = prepare_attempt(made, made.schedule, "shop", 8, first)
    assert options == {"headers": {"mine": 1}, "queue": "slow", "leader": {"limit": 3}}
    assert made.options is options
    assert one.options["task_id"] == again.options["task_id"]
    assert one.options["queue"] == "slow"
    nonces = {copy.options["headers"]["leader_publication"] for copy in (one, again)}
    assert len(nonces) == 2
    assert (one.task, one.last_run_at) == (made.task, made.last_run_at)


def test_crontabs_of_the_database_are_taken_for_celerys_in_their_own_zone(children: Children):
    script = """
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo
from django.conf import settings
settings.configure(INSTALLED_APPS=["django_celery_beat"], USE_TZ=True)
import django; django.setup()
from celery import Celery
from django_celery_beat.tzcrontab import TzAwareCrontab
from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules.moments import from_datetime, to_datetime
from celery_safe_leader.schedulers import LeaderDatabaseScheduler

app = Celery("shop", broker="redis://localhost:1/0")
scheduler = LeaderDatabaseScheduler(app, lazy=True)
zone = ZoneInfo("America/New_York")
theirs = TzAwareCrontab("30", "9", tz=zone, app=app)
assert not rule_for(theirs).exact
rule = rule_for(scheduler.known_schedule(theirs))
assert rule.exact
start = from_datetime(datetime(2026, 1, 10, tzinfo=timezone.utc))
print("due", to_datetime(rule.after(start)).astimezone(zone).isoformat())
interval = object()
assert scheduler.known_schedule(interval) is interval
"""
    child = children.python(script)
    assert child.wait_for_line("due").text == "due 2026-01-10T09:30:00-05:00"
    assert child.wait(10) == 0, child.output


def test_beat_finds_the_ready_classes_by_their_short_names():
    found = {point.name: point for point in entry_points(group="celery.beat_schedulers")}
    assert found["leader-redbeat"].load().__name__ == "LeaderRedBeatScheduler"
    assert found["leader-database"].value.endswith(".schedulers:LeaderDatabaseScheduler")


def test_further_messages_of_a_run_have_ids_of_their_own_the_same_each_time() -> None:
    made = entry(schedule(3600.0), NOW - timedelta(hours=2))
    run = run_id(made, made.schedule, "shop")

    def ids() -> list[str]:
        numbers = iter(range(1, 4))
        attempts = [
            prepare_attempt(made, made.schedule, "shop", 7, lambda _: next(numbers))
            for _ in range(3)
        ]
        for attempt in attempts:
            assert attempt.options["headers"]["leader_occurrence"] == attempt.options["task_id"]
        return [attempt.options["task_id"] for attempt in attempts]

    assert ids() == ids()
    assert ids()[0] == run
    assert len(set(ids())) == 3
    assert all(uuid.UUID(text).version == 5 for text in ids())
