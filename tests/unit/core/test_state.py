"""The table of states and moves: every pair, allowed or not."""

from __future__ import annotations

import itertools

import pytest

from celery_safe_leader._core.election import Election
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import TRANSITIONS, Move, State, next_state
from celery_safe_leader.errors import LifecycleError
from tests.unit.core.drive import START, TTL, Driver

ALLOWED = {
    (State.IDLE, Move.START): State.STANDBY,
    (State.IDLE, Move.HALT): State.IDLE,
    (State.IDLE, Move.CLOSE): State.CLOSED,
    (State.STANDBY, Move.WIN): State.LEADING,
    (State.STANDBY, Move.GIVE_UP): State.RESIGNING,
    (State.STANDBY, Move.HALT): State.IDLE,
    (State.LEADING, Move.LOSE): State.STANDBY,
    (State.LEADING, Move.GIVE_UP): State.RESIGNING,
    (State.RESIGNING, Move.SETTLE): State.IDLE,
    (State.RESIGNING, Move.HALT): State.RESIGNING,
    (State.RESIGNING, Move.START): State.STANDBY,
    (State.CLOSED, Move.CLOSE): State.CLOSED,
    (State.CLOSED, Move.HALT): State.CLOSED,
}


@pytest.mark.parametrize(("state", "move"), list(itertools.product(State, Move)))
def test_each_pair_is_in_the_table_or_refused(state: State, move: Move) -> None:
    if (state, move) in ALLOWED:
        assert next_state(state, move) is ALLOWED[state, move]
    else:
        with pytest.raises(LifecycleError, match=f"{state.value} cannot {move.value}"):
            next_state(state, move)


def test_the_table_is_complete_and_cannot_be_changed() -> None:
    assert set(TRANSITIONS) == set(State)
    with pytest.raises(TypeError):
        TRANSITIONS[State.IDLE] = {}  # type: ignore[index]


def test_every_state_is_reached_and_all_but_the_end_are_left() -> None:
    assert set(ALLOWED.values()) == set(State)
    assert {before for (before, _), after in ALLOWED.items() if after is not before} == (
        set(State) - {State.CLOSED}
    )


def in_state(state: State) -> Driver:
    """Bring a candidate there by the ordinary way."""
    driver = Driver()
    if state is State.IDLE:
        driver.stop()
    elif state is State.CLOSED:
        driver.stop()
        driver.election.close()
    elif state in (State.LEADING, State.RESIGNING):
        driver.wins()
        if state is State.RESIGNING:
            driver.stop()
    assert driver.election.state is state
    driver.told.clear()
    return driver


@pytest.mark.parametrize("state", [State.STANDBY, State.LEADING, State.CLOSED])
def test_a_start_that_is_refused_changes_nothing(state: State) -> None:
    driver = in_state(state)
    lease, pause = driver.election.lease, driver.election.pause(driver.now)
    with pytest.raises(LifecycleError):
        driver.election.start(driver.now)
    assert driver.election.state is state
    assert driver.election.lease is lease
    assert driver.election.pause(driver.now) == pause
    assert driver.election.events() == []


@pytest.mark.parametrize("state", [State.STANDBY, State.LEADING])
def test_who_takes_part_has_to_stop_before_it_closes(state: State) -> None:
    driver = in_state(state)
    with pytest.raises(LifecycleError):
        driver.election.close()
    assert driver.election.state is state


@pytest.mark.parametrize("state", [State.IDLE, State.RESIGNING, State.CLOSED])
def test_who_takes_no_part_can_close_again_and_again(state: State) -> None:
    driver = in_state(state)
    driver.election.close()
    driver.election.close()
    assert driver.election.state is State.CLOSED
    assert driver.poll() is None


@pytest.mark.parametrize("state", [State.IDLE, State.RESIGNING, State.CLOSED])
def test_stopping_twice_is_the_same_as_once(state: State) -> None:
    driver = in_state(state)
    driver.stop()
    assert driver.election.state is state
    assert driver.told == []


def test_a_new_candidate_does_nothing() -> None:
    election = Election(Options(TTL), "me", "seed")
    assert election.state is State.IDLE
    assert election.poll(START) is None
    assert election.pause(START) is None
    assert not election.is_leader(START)
    assert election.lease is None
