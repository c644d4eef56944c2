"""The entries, and which of them changed."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler

from celery_safe_leader._beat.entries.roster import Roster
from celery_safe_leader.errors import ConfigurationError


def entry(seconds: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"task": "shop.work", "schedule": seconds, **more}


class Set:
    """An app, a scheduler that does nothing by itself, and the roster of both."""

    def __init__(self, **entries: Any) -> None:
        self.app = Celery("shop", set_as_current=False)
        self.app.conf.beat_schedule = entries
        self.scheduler = Scheduler(self.app, lazy=True)
        self.roster = Roster(self.app, "coalesce")
        self.roster.setup(self.scheduler)

    def refreshed(self) -> dict[str, Any]:
        self.roster.refresh(self.scheduler)
        return self.roster.changes()


def test_all_entries_are_new_at_first_and_then_none_changes():
    both = Set(a=entry(), b=entry())
    assert both.roster.changes() == {"a": None, "b": None}
    assert set(both.roster.entries) == {"a", "b"}
    assert both.refreshed() == {}


def test_what_is_set_changed_and_removed_is_told_with_what_it_was():
    made = Set(a=entry(), b=entry())
    made.roster.changes()
    before = dict(made.roster.entries)
    made.app.conf.beat_schedule["c"] = entry()
    made.app.conf.beat_schedule["a"] = entry(5.0)
    del made.app.conf.beat_schedule["b"]
    assert made.refreshed() == {"a": before["a"], "b": before["b"], "c": None}
    assert set(made.roster.entries) == {"a", "c"}
    assert made.roster.entries["a"].rule.after(0) == 5_000_000


def test_a_whole_new_schedule_replaces_the_old_one():
    made = Set(a=entry(), b=entry())
    made.roster.changes()
    made.app.conf.beat_schedule = {"b": entry(), "c": entry()}
    assert set(made.refreshed()) == {"a", "b", "c"}
    assert set(made.roster.entries) == {"b", "c"}


def test_entries_of_the_scheduler_itself_stay():
    made = Set(a=entry())
    made.scheduler.update_from_dict({"celery.backend_cleanup": entry()})
    assert set(made.refreshed()) >= {"celery.backend_cleanup"}
    made.app.conf.beat_schedule = {"b": entry()}
    made.refreshed()
    assert set(made.roster.entries) == {"b", "celery.backend_cleanup"}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"task": "shop.work"}, "schedule"),
        (entry(0.0), "at least 0.001 s"),
        (entry(last_run_at="yesterday"), "last_run_at is 'yesterday'; it must be a datetime"),
        ({"task": "shop.work", "schedule": "hourly"}, "'str' object"),
        (7, "'int' object"),
    ],
)
def test_an_entry_that_cannot_be_followed_is_named_and_the_others_are(
    bad: Any, why: str, caplog: pytest.LogCaptureFixture
):
    made = Set(good=entry(), bad=bad)
    assert set(made.roster.entries) == {"good"}
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "'bad'" in record.getMessage()
    assert "never runs" in record.getMessage()
    assert why in record.getMessage()
    made.app.conf.beat_schedule["bad"] = entry()
    assert set(made.refreshed()) >= {"bad"}
    assert set(made.roster.entries) == {"good", "bad"}


def test_a_task_id_that_is_not_used_is_said_with_the_remedy(caplog: pytest.LogCaptureFixture):
    given = entry(options={"task_id": "mine"})
    made = Set(a=given, b=entry())
    made.refreshed()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("The task_id of entry 'a' ('mine') is not used")
    assert "or remove task_id from the entry's options" in record.getMessage()
    # It runs, and what the user gave stays the user's.
    assert set(made.roster.entries) == {"a", "b"}
    assert given["options"] == {"task_id": "mine"}


def test_wrong_options_end_the_start_but_not_a_beat_that_runs(caplog: pytest.LogCaptureFixture):
    wrong = entry(options={"leader": {"limit": 0}})
    with pytest.raises(ConfigurationError, match="entry 'a'"):
        Set(a=wrong)
    made = Set(a=entry())
    made.app.conf.beat_schedule["a"] = wrong
    made.refreshed()
    assert made.roster.entries == {}
    assert "Entry 'a' of beat_schedule is refused" in caplog.text
