from __future__ import annotations

import itertools
from datetime import timedelta

import pytest
from celery.schedules import crontab, schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._schedules.missed import DueRun, DueRuns, Policy, due_runs
from celery_safe_leader._schedules.rule import Rule, ScheduleError
from tests.unit.schedules.almanac import app_in, microseconds

S = 1_000_000
ONE_SECOND = rule_for(schedule(1))
RULES = [
    ONE_SECOND,
    rule_for(schedule(timedelta(seconds=37))),
    rule_for(schedule(timedelta(minutes=5), relative=True, app=app_in("Europe/Berlin"))),
    rule_for(crontab(app=app_in("America/New_York"))),
    rule_for(crontab("*/20", "0-3", app=app_in("America/New_York"))),
    rule_for(crontab(30, 1, app=app_in("Australia/Lord_Howe"))),
]


class Backwards(Rule):
    """Answers a moment that is over, as Celery's crontab does in the repeated hour."""

    def __init__(self, distance: int) -> None:
        super().__init__("<backwards>", "")
        self._distance = distance

    def after(self, moment_us: int) -> int | None:
        return moment_us - self._distance


@pytest.mark.parametrize("distance", [0, 1, 3600 * S])
def test_schedule_that_goes_backwards_is_an_error_that_names_it(distance: int) -> None:
    with pytest.raises(ScheduleError, match=r"backwards.* returned .* as the moment after"):
        due_runs(Backwards(distance), 5 * S, 9 * S)


@pytest.mark.parametrize("policy", Policy)
def test_run_that_is_on_time_is_the_same_under_each_policy(policy: Policy) -> None:
    assert due_runs(ONE_SECOND, 10 * S, 11 * S + 5, policy) == DueRuns(
        (DueRun(11 * S, 11 * S),), 0, 0, 12 * S, 10 * S
    )


@pytest.mark.parametrize("policy", Policy)
@pytest.mark.parametrize("now", [5 * S, 10 * S, 11 * S - 1])
def test_nothing_is_due_before_the_next_moment(policy: Policy, now: int) -> None:
    assert due_runs(ONE_SECOND, 10 * S, now, policy) == DueRuns((), 0, 0, 11 * S, 10 * S)


def test_coalesce_is_one_run_at_the_latest_moment() -> None:
    assert due_runs(ONE_SECOND, 10 * S, 15 * S + 7) == DueRuns(
        (DueRun(11 * S, 15 * S),), 4, 0, 16 * S, 10 * S
    )


def test_all_is_one_run_each() -> None:
    found = due_runs(ONE_SECOND, 10 * S, 13 * S, Policy.ALL)
    assert found.runs == (DueRun(11 * S, 11 * S), DueRun(12 * S, 12 * S), DueRun(13 * S, 13 * S))
    assert (found.coalesced, found.dropped, found.next_due) == (0, 0, 14 * S)


def test_all_over_its_limit_coalesces_the_oldest_into_the_first_run() -> None:
    found = due_runs(ONE_SECOND, 0, 604_800 * S, Policy.ALL, limit=3)
    assert found.runs == (
        DueRun(1 * S, 604_798 * S),
        DueRun(604_799 * S, 604_799 * S),
        DueRun(604_800 * S, 604_800 * S),
    )
    assert (found.coalesced, found.dropped) == (604_797, 0)


def test_all_over_ten_thousand_years_materialises_no_more_than_the_limit() -> None:
    found = due_runs(ONE_SECOND, 0, 250_000_000_000 * S, Policy.ALL)
    assert len(found.runs) == 1_000
    assert found.coalesced == 250_000_000_000 - 1_000


def test_skip_runs_a_moment_within_its_tolerance() -> None:
    minutely = rule_for(schedule(60))
    on_time = due_runs(minutely, 0, 70 * S, Policy.SKIP, tolerance_us=10 * S)
    assert on_time == DueRuns((DueRun(60 * S, 60 * S),), 0, 0, 120 * S, 0)
    late = due_runs(minutely, 0, 70 * S + 1, Policy.SKIP, tolerance_us=10 * S)
    assert late == DueRuns((), 0, 1, 120 * S, 0)


def test_skip_leaves_out_the_old_and_the_next_run_covers_them() -> None:
    minutely = rule_for(schedule(60))
    assert due_runs(minutely, 0, 650 * S, Policy.SKIP, tolerance_us=10 * S) == DueRuns(
        (), 0, 10, 660 * S, 0
    )
    assert due_runs(minutely, 0, 660 * S, Policy.SKIP, tolerance_us=10 * S) == DueRuns(
        (DueRun(60 * S, 660 * S),), 0, 10, 720 * S, 0
    )


def test_lateness_bounds_each_moment_of_all() -> None:
    found = due_runs(ONE_SECOND, 10 * S, 20 * S, Policy.ALL, max_lateness_us=2 * S)
    assert found.runs == (DueRun(11 * S, 18 * S), DueRun(19 * S, 19 * S), DueRun(20 * S, 20 * S))
    assert (found.coalesced, found.dropped) == (0, 7)


def test_lateness_bounds_the_run_of_coalesce() -> None:
    hourly = rule_for(schedule(3600))
    late = due_runs(hourly, 0, 3 * 3600 * S + 61 * S, max_lateness_us=60 * S)
    assert late == DueRuns((), 0, 3, 4 * 3600 * S, 0)
    assert due_runs(hourly, 0, 3 * 3600 * S + 60 * S, max_lateness_us=60 * S).runs == (
        DueRun(3600 * S, 3 * 3600 * S),
    )


def test_smaller_of_lateness_and_tolerance_counts() -> None:
    minutely = rule_for(schedule(60))
    assert not due_runs(minutely, 0, 65 * S, Policy.SKIP, max_lateness_us=4 * S).runs
    assert not due_runs(
        minutely, 0, 65 * S, Policy.SKIP, max_lateness_us=9 * S, tolerance_us=4 * S
    ).runs


@pytest.mark.parametrize("policy", Policy)
def test_nothing_before_the_schedule_was_first_seen_is_missed(policy: Policy) -> None:
    seen = microseconds("2026-06-01T08:00:30Z")
    weekly_turned_into_seconds = due_runs(ONE_SECOND, 0, seen + 100, policy, seen_us=seen)
    assert weekly_turned_into_seconds == DueRuns((), 0, 0, seen + S, seen)
    daily = rule_for(crontab(0, 5, app=app_in("UTC")))
    assert due_runs(daily, seen - 29 * 3600 * S, seen + S, policy, seen_us=seen).runs == ()
    # Once it has run, its own moments count.
    assert due_runs(ONE_SECOND, seen + 5 * S, seen + 6 * S, policy, seen_us=seen).runs == (
        DueRun(seen + 6 * S, seen + 6 * S),
    )


def test_rule_that_is_never_due_again_has_no_next_moment() -> None:
    endless = rule_for(schedule(timedelta(days=999_999_999)))
    assert due_runs(endless, 0, S) == DueRuns((), 0, 0, None, 0)


gaps = st.one_of(
    st.integers(0, 3 * S), st.integers(0, 3 * 3600 * S), st.integers(0, 40 * 86_400 * S)
)


@settings(max_examples=150)
@given(
    rule=st.sampled_from(RULES),
    policies=st.lists(st.sampled_from(Policy), min_size=1, max_size=8),
    steps=st.lists(gaps, min_size=1, max_size=8),
    limit=st.integers(1, 5),
    lateness=st.none() | st.integers(0, 7200 * S),
    start=st.integers(microseconds("2026-01-01T00:00Z"), microseconds("2026-12-31T00:00Z")),
    commit=st.lists(st.integers(0, 5), min_size=8, max_size=8),
)
def test_ranges_have_neither_gap_nor_overlap(
    rule: Rule,
    policies: list[Policy],
    steps: list[int],
    limit: int,
    lateness: int | None,
    start: int,
    commit: list[int],
) -> None:
    """Plan at random moments, under changing policies, and commit some of the runs each time."""
    last, now = start, start
    for index, step in enumerate(steps):
        now += step
        policy = policies[index % len(policies)]
        found = due_runs(rule, last, now, policy, limit=limit, max_lateness_us=lateness)
        assert found == due_runs(rule, last, now, policy, limit=limit, max_lateness_us=lateness)
        check_plan(rule, found, last, now)
        assert len(found.runs) <= (limit if policy is Policy.ALL else 1)
        if policy is Policy.COALESCE and lateness is None:
            assert bool(found.runs) == (rule.count(last, now) > 0)
        for run in found.runs[: commit[index]]:
            # The range begins at the first moment after the last committed one: no gap, and,
            # since its end is later, no overlap.
            assert run.first == rule.after(last)
            assert last < run.first <= run.last <= now
            assert rule.latest(last, run.last) == run.last
            last = run.last


def check_plan(rule: Rule, found: DueRuns, last: int, now: int) -> None:
    # Each moment is accounted for once.
    total = len(found.runs) + found.coalesced + found.dropped
    assert total == rule.count(last, now)
    assert min(found.coalesced, found.dropped) >= 0
    assert found.next_due is not None
    assert found.next_due > now
    assert found.next_due == rule.after(rule.latest(last, now) or last)


@given(
    rule=st.sampled_from(RULES),
    start=st.integers(microseconds("2026-01-01T00:00Z"), microseconds("2026-12-31T00:00Z")),
    gap=gaps,
)
def test_rules_are_strict_monotone_and_search_as_they_step(
    rule: Rule, start: int, gap: int
) -> None:
    first = rule.after(start)
    assert first is not None
    assert first > start
    later = rule.after(start + gap)
    assert later is not None
    assert later >= first
    recent = rule.recent(start, start + gap, 20)
    assert len(recent) == min(20, rule.count(start, start + gap))
    assert all(rule.after(a) == b for a, b in itertools.pairwise(recent))
    assert rule.latest(start, start + gap) == (recent[-1] if recent else None)
    assert rule.latest(start, first) == first
    assert rule.latest(start, first - 1) is None
