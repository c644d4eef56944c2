"""Stopping, resigning, and starting again."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew, Resign, Woken
from celery_safe_leader._core.state import State
from tests.unit.core.drive import TTL, WAIT, Driver, record

THIRD = TTL / 3 + 1e-6


@pytest.fixture
def driver() -> Driver:
    """A leader under token 6, elected just now."""
    driver = Driver()
    driver.wins()
    driver.told.clear()
    return driver


@pytest.mark.parametrize("reason", [DemotionReason.RESIGNED, DemotionReason.SHUTDOWN])
def test_leadership_ends_before_the_resignation_is_sent(
    driver: Driver, reason: DemotionReason
) -> None:
    driver.stop(reason)
    assert not driver.leads
    assert driver.election.lease is None
    assert driver.heard(Demoted) == [Demoted(6, reason)]
    request = driver.expect(Resign)
    assert (request.candidate_id, request.token, request.reason) == ("me", 6, reason.value)


def test_a_resignation_that_is_through_ends_it(driver: Driver) -> None:
    driver.stop()
    driver.answer(driver.expect(Resign), "resigned", record("gone", "me", 6, resigned=True))
    assert driver.election.state is State.IDLE
    assert driver.poll() is None
    assert driver.election.pause(driver.now) is None


def test_a_resignation_without_an_answer_is_sent_once_more(driver: Driver) -> None:
    driver.stop()
    for _ in range(2):
        driver.fail(driver.expect(Resign))
        driver.later(0.5)
    assert driver.poll() is None
    assert driver.election.state is State.IDLE


def test_nobody_resigns_after_the_lease_is_over(driver: Driver) -> None:
    driver.stop()
    request = driver.expect(Resign)
    driver.later(0.99 * TTL)
    driver.fail(request)
    driver.later(0.5)
    assert driver.poll() is None
    assert driver.election.state is State.IDLE


def test_stopping_after_the_deadline_is_an_expiry_and_no_resignation(driver: Driver) -> None:
    driver.later(0.99 * TTL + 1e-6)
    driver.stop()
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]
    assert driver.election.state is State.IDLE
    assert driver.poll() is None


def test_a_standby_stops_at_once(driver: Driver) -> None:
    standby = Driver()
    standby.sees(record())
    standby.expect(Await)
    standby.stop()
    assert standby.election.state is State.IDLE
    assert standby.poll() is None
    assert standby.heard((Elected, Demoted)) == []


def test_a_campaign_under_way_is_resigned_if_it_wins() -> None:
    driver = Driver()
    request = driver.campaigns()
    driver.stop()
    assert driver.election.state is State.RESIGNING
    driver.answer(request, "accepted", record("own", "me", 6))
    assert not driver.leads
    assert driver.expect(Resign).token == 6
    assert driver.heard((Elected, Demoted)) == []


@pytest.mark.parametrize("outcome", ["rejected", "no answer", "unconfirmed"])
def test_a_campaign_under_way_that_does_not_win_needs_no_resignation(outcome: str) -> None:
    driver = Driver(wait_replicas=1) if outcome == "unconfirmed" else Driver()
    if outcome == "unconfirmed":
        driver.sees(record(), confirmed=True)
        driver.fail(driver.expect(Await))
        driver.later(1.01 * TTL + 0.001)
        request = driver.expect(Campaign)
    else:
        request = driver.campaigns()
    driver.stop()
    if outcome == "no answer":
        driver.fail(request)
    elif outcome == "unconfirmed":
        driver.answer(request, "accepted", record("own", "me", 6), confirmed=False)
    else:
        driver.answer(request, "rejected", record("w", "other", 9))
    driver.later(1.0)
    assert driver.poll() is None
    assert driver.election.state is State.IDLE


def test_a_renewal_under_way_is_waited_for_before_resigning(driver: Driver) -> None:
    driver.later(THIRD)
    request = driver.expect(Renew)
    driver.stop()
    assert driver.poll() is None
    driver.answer(request, "accepted", record("own1", "me", 6))
    assert not driver.leads
    driver.expect(Resign)


def test_it_takes_part_again(driver: Driver) -> None:
    driver.stop()
    driver.answer(driver.expect(Resign), "resigned", record("gone", "me", 6, resigned=True))
    driver.election.start(driver.now)
    request = driver.expect(Campaign)  # nobody else wanted it
    assert (request.version, request.token) == ("gone", 6)
    driver.answer(request, "accepted", record("own", "me", 7))
    assert driver.leads
    assert [event.fencing_token for event in driver.heard((Elected, Demoted))] == [6, 7]


def test_it_starts_again_while_it_resigns(driver: Driver) -> None:
    driver.stop()
    request = driver.expect(Resign)
    driver.election.start(driver.now)
    assert driver.election.state is State.STANDBY
    assert driver.poll() is None
    driver.answer(request, "resigned", record("gone", "me", 6, resigned=True))
    assert driver.election.state is State.STANDBY
    assert driver.expect(Campaign).version == "gone"


def test_a_restoration_under_way_does_not_revive_a_tenure_that_was_ended(driver: Driver) -> None:
    driver.later(THIRD)
    driver.answer(driver.expect(Renew), "vacant", record("vacancy", "", 6))
    request = driver.expect(Campaign)
    assert request.keep
    driver.stop()
    driver.election.start(driver.now)
    driver.told.clear()
    driver.answer(request, "accepted", record("back", "me", 6))
    assert not driver.leads
    assert driver.told == []
    again = driver.expect(Campaign)
    assert (again.version, again.token, again.keep) == ("back", 6, False)


def test_a_reply_that_comes_after_the_stop_changes_nothing() -> None:
    driver = Driver()
    request = driver.expect(Observe)
    driver.stop()
    driver.answer(request, "seen", record("v", resigned=True))
    assert driver.election.state is State.IDLE
    assert driver.poll() is None


def test_a_wake_up_that_comes_after_stop_and_start_is_thrown_away() -> None:
    driver = Driver()
    driver.sees(record())
    request = driver.expect(Await)
    driver.stop()
    driver.election.start(driver.now)
    current = driver.expect(Observe)
    driver.receive(request, Woken(resigned=True))
    assert driver.poll() is None
    driver.answer(current, "seen", record())
    driver.expect(Await)


def test_what_was_seen_before_a_stop_still_counts() -> None:
    driver = Driver()
    driver.sees(record("v", "other", 5, ttl=20.0))
    driver.stop()
    driver.later(3.0)
    driver.election.start(driver.now)
    driver.sees(record("v", "other", 5))
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(20.2 - 3.0)


def test_who_closes_while_it_resigns_sends_nothing_more(driver: Driver) -> None:
    driver.stop()
    driver.election.close()
    assert driver.election.state is State.CLOSED
    assert driver.poll() is None


def test_the_history_is_told_more_than_the_listeners(driver: Driver) -> None:
    driver.election.stop(driver.now, DemotionReason.RESIGNED, "stood_down:broker")
    assert driver.expect(Resign).reason == "stood_down:broker"
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.RESIGNED)]


def test_who_stood_down_campaigns_after_the_others_had_their_turn(driver: Driver) -> None:
    driver.election.observation.campaign_later = 2 * WAIT
    driver.stop()
    driver.answer(driver.expect(Resign), "resigned", record("gone", "me", 6, resigned=True))
    driver.election.start(driver.now)
    driver.sees(record("gone", "me", 6, resigned=True))
    driver.wait()  # one wait is over
    driver.sees(record("gone", "me", 6, resigned=True))
    driver.wait()
    driver.later(0.001)
    assert driver.expect(Campaign).version == "gone"


def test_who_stood_down_and_could_not_say_so_waits_as_long_as_others(driver: Driver) -> None:
    driver.election.observation.campaign_later = 2 * WAIT
    driver.stop()
    driver.fail(driver.expect(Resign))
    driver.later(0.5)
    driver.fail(driver.expect(Resign))
    driver.election.start(driver.now)
    driver.sees(record("own", "me", 6))
    takeover = driver.election.observation.takeover_in(driver.now)
    assert takeover is not None
    assert takeover > 1.01 * TTL + WAIT  # some of it has passed since its last renewal
    driver.election.observation.campaign_later = 0.0
    assert driver.election.observation.takeover_in(driver.now) == 0.0


def test_who_stood_down_waits_for_a_silent_leader_two_waits_longer() -> None:
    driver = Driver()
    driver.election.observation.campaign_later = 2 * WAIT
    driver.sees(record("v", "other", 5))
    expected = 1.01 * TTL + 2 * WAIT
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(expected)
