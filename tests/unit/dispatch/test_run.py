"""The states of a run, and the table of what may follow what."""

from __future__ import annotations

import pytest

from celery_safe_leader._dispatch.run import TRANSITIONS, Run, RunState
from celery_safe_leader._ledger.codec import Claim
from tests.unit.dispatch.test_waiting import make_entry

ENDS = {RunState.DONE, RunState.DROPPED}
IN_REDIS = {RunState.CLAIMED, RunState.SENT, RunState.OWED, RunState.UNSETTLED}
"""Claimed: nobody may drop such a run."""


def make_run(state: RunState = RunState.SCHEDULED) -> Run:
    return Run.of(make_entry("e"), Claim("e", "id", 20, 10, "f", 7), state)


def test_the_table_has_every_state_and_only_two_ends() -> None:
    assert set(TRANSITIONS) == set(RunState)
    assert {state for state, following in TRANSITIONS.items() if not following} == ENDS


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    reached, new = set(), {RunState.SCHEDULED}
    while new:
        reached |= new
        new = {after for state in new for after in TRANSITIONS[state]} - reached
    assert reached == set(RunState)
    for state in set(RunState) - ENDS:
        assert TRANSITIONS[state], state


def test_what_is_claimed_is_never_dropped() -> None:
    for state in IN_REDIS:
        assert RunState.DROPPED not in TRANSITIONS[state]


def test_a_step_that_the_table_does_not_have_is_refused() -> None:
    run = make_run(RunState.SENT)
    with pytest.raises(AssertionError, match="run of 'e': sent to built"):
        run.to(RunState.BUILT)
    assert run.state is RunState.SENT


def test_a_run_is_built_or_given_up() -> None:
    run = make_run()
    run.built("message")
    assert (run.state, run.message) == (RunState.BUILT, "message")
    run.give_up()
    assert (run.state, run.gave_up, run.push) == (RunState.GIVEN_UP, True, None)


def test_what_is_to_be_recorded_is_counted_on_from_the_last_run() -> None:
    run = make_run()
    assert (run.after, run.record.moment, run.record.count) == (None, 20, 1)
    run.entry.set_last_run(run.record)
    following = Run.of(run.entry, Claim("e", "id-2", 30, 30, "f", 7))
    assert (following.after, following.record.count) == (run.record, 2)
