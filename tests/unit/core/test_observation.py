"""What a candidate has seen, and when that lets it campaign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._core.messages import Record
from celery_safe_leader._core.observation import Observation
from celery_safe_leader._core.options import MAX_TTL, Options
from tests.unit.core.drive import START, TTL, record

FULL = 1.01 * TTL


@pytest.fixture
def observation() -> Observation:
    return Observation(Options(TTL))


def test_who_has_seen_nothing_may_not_campaign(observation: Observation) -> None:
    assert observation.takeover_in(START) is None


def test_the_same_version_has_to_be_seen_for_longer_than_any_lease(
    observation: Observation,
) -> None:
    observation.note(record("v"), START)
    assert observation.takeover_in(START) == pytest.approx(FULL)
    observation.note(record("v"), START.plus(8))
    assert observation.takeover_in(START.plus(8)) == pytest.approx(FULL - 8)
    assert observation.takeover_in(START.plus(FULL - 0.001)) == pytest.approx(0.001)
    assert observation.takeover_in(START.plus(FULL + 0.001)) == 0.0


def test_another_version_is_observed_anew(observation: Observation) -> None:
    observation.note(record("v"), START)
    observation.note(record("w"), START.plus(5))
    assert observation.takeover_in(START.plus(5)) == pytest.approx(FULL)


def test_a_version_that_comes_back_is_observed_anew(observation: Observation) -> None:
    for at, version in enumerate("vwv"):
        observation.note(record(version), START.plus(at))
    assert observation.takeover_in(START.plus(2)) == pytest.approx(FULL)


def test_a_resigned_record_may_be_taken_at_once(observation: Observation) -> None:
    observation.note(record("v", resigned=True), START)
    assert observation.takeover_in(START) == 0.0


def test_the_own_version_may_be_taken_at_once(observation: Observation) -> None:
    observation.own(record("v", "me"), START)
    assert observation.takeover_in(START) == 0.0


def test_the_exact_own_version_only(observation: Observation) -> None:
    observation.own(record("v", "me"), START)
    observation.note(record("w", "me"), START)
    assert observation.takeover_in(START) == pytest.approx(FULL)


def test_a_disowned_version_has_to_be_observed(observation: Observation) -> None:
    observation.own(record("v", "me"), START)
    observation.disown()
    assert observation.takeover_in(START.plus(1)) == pytest.approx(FULL - 1)


@pytest.mark.parametrize(
    ("shown", "longest"), [(4.0, TTL), (TTL, TTL), (25.0, 25.0), (1e12, MAX_TTL), (0.0, TTL)]
)
def test_the_longest_ttl_counts(observation: Observation, shown: float, longest: float) -> None:
    observation.note(record("v", ttl=shown), START)
    observation.note(record("w", ttl=0.1), START)
    assert observation.longest_ttl == longest
    assert observation.takeover_in(START) == pytest.approx(1.01 * longest)


def test_a_longer_ttl_prolongs_an_observation_that_has_begun(observation: Observation) -> None:
    observation.note(record("v"), START)
    observation.note(record("v", ttl=30.0), START.plus(1))
    assert observation.takeover_in(START.plus(1)) == pytest.approx(30.3 - 1)


def test_the_highest_token_is_remembered(observation: Observation) -> None:
    for token in (5, 9, 3):
        observation.note(record(f"v{token}", token=token), START)
    assert observation.highest_token == 9


def test_the_wall_clock_does_not_count_for_a_standby(observation: Observation) -> None:
    observation.note(record("v"), START)
    for step in (3600.0, -3600.0):
        now = replace(START.plus(4), wall=START.wall + step)
        assert observation.takeover_in(now) == pytest.approx(FULL - 4)


def test_a_suspend_does_not_count_for_a_standby(observation: Observation) -> None:
    observation.note(record("v"), START)
    slept = replace(START.plus(3600), raw=START.raw + 1)
    assert observation.takeover_in(slept) == pytest.approx(FULL - 1)


def test_a_slewed_clock_does_not_count_for_a_standby(observation: Observation) -> None:
    observation.note(record("v"), START)
    slewed = replace(START.plus(10), boottime=START.boottime + 9.9)
    assert observation.takeover_in(slewed) == pytest.approx(FULL - 9.9)


# With replicas that have to confirm


@pytest.fixture
def careful() -> Observation:
    return Observation(Options(TTL, wait_replicas=1))


def test_without_replicas_no_witness_is_needed(observation: Observation) -> None:
    assert not observation.needs_witness
    observation.note(record("v"), START)
    assert not observation.needs_witness


def test_an_observation_begins_with_a_confirmed_write(careful: Observation) -> None:
    assert careful.needs_witness
    careful.note(record("v"), START)
    assert careful.takeover_in(START.plus(100)) is None
    careful.note(record("v"), START.plus(100), confirmed=True)
    assert not careful.needs_witness
    assert careful.takeover_in(START.plus(100)) == pytest.approx(FULL)


def test_another_epoch_needs_another_witness(careful: Observation) -> None:
    careful.note(record("v"), START, confirmed=True)
    careful.note(record("w", epoch="e2"), START.plus(1))
    assert careful.needs_witness
    assert careful.takeover_in(START.plus(100)) is None


def test_another_version_of_the_same_epoch_needs_none(careful: Observation) -> None:
    careful.note(record("v"), START, confirmed=True)
    careful.note(record("w"), START.plus(1))
    assert not careful.needs_witness
    assert careful.takeover_in(START.plus(1)) == pytest.approx(FULL)


# Where a server is known by a connection only


def given_up(version: str, **fields: Any) -> Record:
    """Make a record that was resigned, and that does not say where."""
    return replace(record(version, "other", 7), given_up=True, **fields)


def test_what_was_given_up_before_our_eyes_may_be_taken_at_once(observation: Observation) -> None:
    observation.note(record("v", "other", 7), START)
    for seconds in (1, 2):  # also when it is seen again
        observation.note(given_up("w"), START.plus(seconds))
        assert observation.takeover_in(START.plus(seconds)) == 0.0


@pytest.mark.parametrize(
    "before",
    [
        None,
        record("v", "other", 6),
        record("v", "another", 7),
        replace(record("v", "other", 7), epoch="another connection"),
        given_up("v"),
    ],
    ids=["nothing", "another token", "another holder", "another epoch", "given up as well"],
)
def test_what_was_given_up_unseen_may_not(observation: Observation, before: Record | None) -> None:
    if before is not None:
        observation.note(before, START)
    for seconds in (1, 2):
        observation.note(given_up("w"), START.plus(seconds))
        assert observation.takeover_in(START.plus(seconds)) == pytest.approx(FULL - seconds + 1)


def test_a_record_resigned_to_another_is_left_to_it_for_one_wait() -> None:
    observation = Observation(Options(10.0, 2.0), "me")
    resigned = replace(record("v"), resigned=True, successor="other")
    observation.note(resigned, START)
    assert observation.takeover_in(START) == 2.0
    observation.note(resigned, START.plus(1.5))
    assert observation.takeover_in(START.plus(1.5)) == 0.5
    assert observation.takeover_in(START.plus(2.0)) == 0.0
    observation.note(replace(resigned, version="v2", successor="me"), START.plus(2.0))
    assert observation.takeover_in(START.plus(2.0)) == 0.0


def test_who_is_asked_for_goes_first_even_if_it_is_to_go_last() -> None:
    observation = Observation(Options(10.0, 2.0), "me")
    observation.campaign_later = 4.0
    observation.note(replace(record("v"), resigned=True, successor="me"), START)
    assert observation.takeover_in(START) == 0.0
    observation.note(replace(record("w"), resigned=True, successor="other"), START)
    assert observation.takeover_in(START) == 4.0


def test_a_record_resigned_to_another_waits_for_no_replica() -> None:
    """Else it would be for longer than one wait."""
    observation = Observation(Options(10.0, 2.0, 1), "me")
    observation.note(replace(record("v"), resigned=True, successor="other"), START)
    assert observation.takeover_in(START.plus(2.0)) == 0.0


def test_a_successor_of_a_record_that_is_held_means_nothing() -> None:
    observation = Observation(Options(10.0, 2.0), "me")
    for who in ("me", "other"):
        observation.note(replace(record(f"v {who}"), successor=who), START)
        assert observation.takeover_in(START) == pytest.approx(FULL)
    # Nor does one of a record that was resigned on another server.
    observation.note(replace(record("w"), given_up=True, successor="me"), START)
    assert observation.takeover_in(START) == pytest.approx(FULL)
