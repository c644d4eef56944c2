"""One entry: where it begins, goes on and stands."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from celery.beat import ScheduleEntry
from celery.schedules import crontab, schedule

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._schedules.missed import DEFAULT_LIMIT, Policy
from celery_safe_leader.errors import ConfigurationError

SECOND = 1_000_000
APP = Celery("shop", set_as_current=False)


class Unknown(schedule):
    def is_due(self, last_run_at: Any) -> Any:
        return True, 1.0


def make_entry(when: Any = 1.0, policy: Policy = Policy.COALESCE, **more: Any) -> Entry:
    if isinstance(when, float):
        when = schedule(when, app=APP)
    return read_entry(
        ScheduleEntry(name="tick", task="shop.work", schedule=when, app=APP, **more), policy
    )


def started(at: int, **more: Any) -> Entry:
    entry = make_entry(**more)
    entry.set_last_run(entry.initial_last_run(at, None))
    return entry


def test_a_new_entry_begins_now_or_at_the_users_last_run():
    entry = make_entry(total_run_count=3)
    run = entry.initial_last_run(100 * SECOND, None)
    assert (run.moment, run.count, run.seen) == (100 * SECOND, 3, 100 * SECOND)
    earlier = datetime(1970, 1, 1, 0, 1, tzinfo=timezone.utc)
    assert entry.initial_last_run(100 * SECOND, earlier).moment == 60 * SECOND
    later = earlier + timedelta(hours=1)
    assert entry.initial_last_run(100 * SECOND, later).moment == 100 * SECOND


def test_a_moment_that_comes_again_has_another_id_until_all_have_come():
    minute, noon = 60 * SECOND, 1_700_000_040 * SECOND  # a full minute
    entry = make_entry(crontab(app=APP))
    before = started(noon - minute, when=crontab(app=APP))

    def occurrence(run: Any, now: int) -> str:
        entry.set_last_run(run)
        return entry.claim_for("shop", entry.due_runs(now), 5).occurrence

    first = occurrence(before.last_run, noon)
    done = LastRun(noon, 1, noon - minute, entry.rule.fingerprint)
    back = done.set_back(noon - 30 * SECOND, entry.rule.fingerprint)
    again = occurrence(back, noon)
    assert again != first
    # Other leaders, and later ones, make the same of it.
    assert occurrence(back, noon + SECOND) == again
    # What comes for the first time has the id that it would have had.
    after = LastRun(noon, 2, back.seen, entry.rule.fingerprint)
    assert occurrence(after, noon + minute) == occurrence(done, noon + minute)
    # Set back to the same moment a second time.
    later = LastRun(noon + minute, 3, back.seen, entry.rule.fingerprint)
    third = later.set_back(noon - 30 * SECOND, entry.rule.fingerprint)
    assert occurrence(third, noon) not in (first, again)


def test_a_changed_schedule_keeps_the_count_and_misses_nothing_of_before():
    run = LastRun(100 * SECOND, 7, 50 * SECOND, "the old one")
    changed = make_entry().rebased_last_run(run, 500 * SECOND)
    assert (changed.moment, changed.count, changed.seen) == (100 * SECOND, 7, 500 * SECOND)
    assert changed.fingerprint == make_entry().rule.fingerprint
    entry = make_entry()
    entry.set_last_run(changed)
    assert entry.next_us() == 501 * SECOND


def test_what_the_ledger_says_shows_on_celerys_entry():
    entry = make_entry()
    entry.set_last_run(LastRun(90 * SECOND, 12, 0, entry.rule.fingerprint))
    assert entry.source.total_run_count == 12
    assert entry.source.last_run_at == datetime(1970, 1, 1, 0, 1, 30, tzinfo=timezone.utc)


def test_claims_of_one_moment_have_one_id_whoever_makes_them():
    one, other = started(100 * SECOND), started(100 * SECOND)
    claims = [
        entry.claim_for("shop", entry.due_runs(now), token)
        for entry, now, token in ((one, 101 * SECOND, 1), (other, 101 * SECOND + 900, 2))
    ]
    assert claims[0].occurrence == claims[1].occurrence
    assert claims[0].moment == claims[1].moment == 101 * SECOND
    assert (
        one.claim_for("another", one.due_runs(101 * SECOND), 1).occurrence != claims[0].occurrence
    )


def test_a_committed_claim_is_the_next_beginning():
    entry = started(100 * SECOND)
    claim = entry.claim_for("shop", entry.due_runs(104 * SECOND + 1), 1)
    assert (claim.first, claim.moment) == (101 * SECOND, 104 * SECOND)
    entry.set_last_run(entry.last_run_after(claim))
    assert entry.last_run is not None
    assert entry.last_run.count == 1
    assert entry.next_us() == 105 * SECOND


def test_a_schedule_that_can_only_be_asked_is_asked_at_once_and_named_by_its_last_run():
    one, other = (started(100 * SECOND, when=Unknown(1.0, app=APP)) for _ in range(2))
    assert one.next_us() == 100 * SECOND
    claims = [
        entry.claim_for("shop", entry.due_runs(now), 1)
        for entry, now in ((one, 107 * SECOND), (other, 109 * SECOND))
    ]
    assert claims[0].occurrence == claims[1].occurrence
    assert claims[0].moment != claims[1].moment


def test_what_a_schedule_that_can_only_be_asked_missed_counts_since_it_was_first_seen():
    entry = started(7 * SECOND, when=Unknown(1.0, app=APP))
    run = entry.last_run
    assert run is not None
    entry.set_last_run(replace(run, seen=15 * SECOND))
    due = entry.due_runs(20 * SECOND)
    assert due.runs == ((15 * SECOND + 1, 20 * SECOND),)


def test_an_entry_that_never_comes_again_is_never_due():
    assert make_entry().next_us() is None
    entry = started(0, when=crontab(minute=0, hour=0, day_of_month=30, month_of_year=6, app=APP))
    assert entry.next_us() is not None


def test_an_entrys_own_options_win_over_the_setting():
    plain = make_entry(policy=Policy.SKIP)
    assert (plain.policy, plain.limit, plain.max_lateness_us) == (Policy.SKIP, DEFAULT_LIMIT, None)
    own = {"missed_runs": "all", "limit": 5, "max_lateness": 2.5}
    entry = make_entry(policy=Policy.SKIP, options={"leader": own})
    assert (entry.policy, entry.limit) == (Policy.ALL, 5)
    assert entry.max_lateness_us == 2.5 * SECOND


@pytest.mark.parametrize(
    ("own", "value", "allowed"),
    [
        ("all", "'all'", "a dict with any of missed_runs, max_lateness, limit, expires_from"),
        ({"missed_runs": "some"}, "'some'", "one of coalesce, skip, all"),
        ({"max_lateness": 0}, "0", "a number of seconds above 0"),
        ({"max_lateness": float("nan")}, "nan", "a number of seconds above 0"),
        ({"max_lateness": True}, "True", "a number of seconds above 0"),
        ({"limit": 0}, "0", "a whole number, 1 or more"),
        ({"limit": 2.0}, "2.0", "a whole number, 1 or more"),
    ],
)
def test_a_wrong_option_is_named_with_its_entry_and_value(own: Any, value: str, allowed: str):
    with pytest.raises(ConfigurationError) as caught:
        make_entry(options={"leader": own})
    text = str(caught.value)
    assert "entry 'tick'" in text
    assert f" is {value}" in text
    assert allowed in text


def test_an_unknown_option_is_named_with_the_valid_ones():
    with pytest.raises(ConfigurationError) as caught:
        make_entry(options={"leader": {"lateness": 1}})
    assert str(caught.value) == (
        "options[\"leader\"] of beat entry 'tick': lateness: unknown option; valid options are "
        "missed_runs, max_lateness, limit, expires_from"
    )
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_each_moment_is_told_of_as_too_late_once():
    entry = make_entry()
    assert [entry.new_missed(1, 0, dropped) for dropped in (2, 2, 5)] == [(0, 2), (0, 0), (0, 3)]
    # By another policy, or a clock that was set back, a later run stands for two of these.
    assert entry.new_missed(1, 3, 3) == (1, 0)
    changed = make_entry()
    changed.keep_answer(entry)
    assert changed.new_missed(1, 1, 6) == (1, 1)
    assert changed.new_missed(2, 1, 6) == (1, 6)
