"""A candidate that does not lead: it looks, waits, and campaigns when it may."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.events import Demoted, Elected, HolderSeen, StoreFailed
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew, Woken
from celery_safe_leader._core.state import State
from tests.unit.core.drive import TTL, WAIT, Driver, record


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_it_looks_first_and_names_what_it_knows(driver: Driver) -> None:
    request = driver.expect(Observe)
    assert request.sent_at == driver.now
    assert (request.ttl, request.token, request.confirm) == (TTL, 0, False)


def test_it_asks_for_nothing_while_a_request_is_under_way(driver: Driver) -> None:
    driver.expect(Observe)
    assert driver.election.pause(driver.now) is None
    assert driver.poll() is None
    driver.later(100)
    assert driver.poll() is None


def test_between_looks_it_sleeps_for_wait_at_most(driver: Driver) -> None:
    driver.sees(record())
    request = driver.expect(Await)
    assert request.timeout == WAIT
    driver.receive(request, Woken(resigned=False))
    driver.expect(Observe)


def test_the_last_sleep_ends_when_it_may_campaign() -> None:
    driver = Driver(wait=30.0)
    driver.sees(record())
    assert driver.expect(Await).timeout == pytest.approx(1.01 * TTL)


def test_no_sleep_is_so_short_that_a_server_takes_it_for_endless(driver: Driver) -> None:
    driver.sees(record())
    driver.fail(driver.expect(Await))
    driver.later(1.01 * TTL - 0.0001)
    driver.sees(record())
    assert driver.expect(Await).timeout == 0.01


def test_it_campaigns_for_the_version_that_it_saw_long_enough(driver: Driver) -> None:
    driver.sees(record("v", token=8, ttl=12.0))
    driver.fail(driver.expect(Await))
    driver.later(12.2)
    request = driver.expect(Campaign)
    assert (request.version, request.candidate_id, request.token) == ("v", "me", 8)
    assert (request.ttl, request.longest_ttl, request.keep) == (TTL, 12.0, False)


def test_it_does_not_campaign_while_the_version_changes(driver: Driver) -> None:
    for step in range(20):
        driver.sees(record(f"v{step}", "other"))
        driver.wait()
    assert driver.election.state is State.STANDBY


def test_its_observation_begins_after_the_answer(driver: Driver) -> None:
    request = driver.expect(Observe)
    driver.later(1.0)
    driver.answer(request, "seen", record())
    driver.fail(driver.expect(Await))
    driver.later(1.01 * TTL - 0.5)
    driver.sees(record())
    driver.expect(Await)


def test_a_resigned_record_is_campaigned_for_at_once(driver: Driver) -> None:
    driver.sees(record("v", "other", resigned=True))
    assert driver.expect(Campaign).version == "v"


def test_a_wake_up_makes_it_look_at_once(driver: Driver) -> None:
    driver.sees(record("v", "other"))
    driver.receive(driver.expect(Await), Woken(resigned=True))
    driver.expect(Observe)


def test_it_is_elected_and_says_so(driver: Driver) -> None:
    request = driver.campaigns()
    driver.later(0.5)
    driver.answer(request, "accepted", record("own", "me", 77))
    assert driver.election.state is State.LEADING
    assert driver.leads
    [elected] = driver.heard(Elected)
    assert elected.fencing_token == 77
    assert elected.lease_deadline == request.sent_at.plus(0.99 * TTL)
    assert driver.election.lease is not None
    assert driver.election.lease.since == request.sent_at


def test_a_campaign_that_was_rejected_is_an_observation(driver: Driver) -> None:
    request = driver.campaigns()
    driver.answer(request, "rejected", record("w", "other", 9))
    assert driver.election.state is State.STANDBY
    assert [seen.holder for seen in driver.heard((HolderSeen, Elected))] == ["other"]
    assert driver.expect(Await).timeout == WAIT


@pytest.mark.parametrize("status", ["seen", "vacant", "resigned"])
def test_only_the_word_accepted_elects(driver: Driver, status: str) -> None:
    request = driver.campaigns()
    driver.answer(request, status, record("own", "me", 6))
    assert not driver.leads
    assert driver.heard(Elected) == []


def test_a_reply_after_the_lease_is_over_elects_nobody(driver: Driver) -> None:
    request = driver.campaigns()
    driver.later(0.99 * TTL)
    driver.answer(request, "accepted", record("own", "me", 6))
    assert not driver.leads
    assert driver.heard((Elected, Demoted)) == []
    again = driver.expect(Campaign)
    assert (again.version, again.token) == ("own", 6)


def test_a_campaign_without_an_answer_is_no_right_to_the_record(driver: Driver) -> None:
    first = driver.campaigns()
    driver.fail(first)
    driver.later(1.0)
    again = driver.expect(Campaign)  # for the same version still: it loses if the first was heard
    assert (again.version, again.keep) == (first.version, False)
    driver.answer(again, "rejected", record("own", "me", 6))
    assert driver.expect(Await).timeout == WAIT
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(1.01 * TTL)


def test_a_reply_to_an_older_request_is_thrown_away(driver: Driver) -> None:
    late = driver.campaigns()
    driver.fail(late)
    driver.told.clear()
    driver.later(1.0)
    driver.answer(late, "accepted", record("own", "me", 6))
    assert not driver.leads
    assert driver.told == []
    current = driver.expect(Campaign)
    driver.answer(late, "accepted", record("own", "me", 6))
    driver.fail(late)
    assert driver.poll() is None
    assert not driver.leads
    driver.answer(current, "rejected", record("own", "me", 6))
    driver.expect(Await)


def test_no_request_repeats_the_nonce_of_another(driver: Driver) -> None:
    nonces = []
    driver.sees(record(resigned=True))
    for _ in range(3):
        request = driver.expect(Campaign)
        nonces.append(request.nonce)
        driver.answer(request, "rejected", record(f"v{len(nonces)}", "other", resigned=True))
    driver.answer(driver.expect(Campaign), "accepted", record("own", "me", 6))
    driver.later(TTL / 3 + 0.01)
    nonces.append(driver.expect(Renew).nonce)
    assert len(set(nonces)) == 4
    assert all(nonce.startswith("seed.") for nonce in nonces)


# Failures


def test_failures_are_counted_and_space_the_attempts_out(driver: Driver) -> None:
    pauses = []
    for _ in range(12):
        driver.fail(driver.expect(Observe))
        pauses.append(driver.election.pause(driver.now) or 0.0)
        driver.later(pauses[-1] + 1e-6)
    assert [event.failures for event in driver.heard(StoreFailed)] == list(range(1, 13))
    assert pauses[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
    assert pauses[4:] == pytest.approx([WAIT] * 8)


def test_an_answer_ends_a_row_of_failures(driver: Driver) -> None:
    driver.fail(driver.expect(Observe))
    driver.later(1.0)
    driver.sees(record())
    driver.fail(driver.expect(Await))
    assert [event.failures for event in driver.heard(StoreFailed)] == [1, 1]


def test_a_long_wait_does_not_make_the_attempts_rare() -> None:
    driver = Driver(wait=100.0)
    for _ in range(12):
        driver.fail(driver.expect(Observe))
        pause = driver.election.pause(driver.now) or 0.0
        assert pause <= TTL / 3 + 1e-6
        driver.later(pause + 1e-6)


# What it tells


def test_it_tells_each_holder_once(driver: Driver) -> None:
    for version, holder, token in (("a", "x", 5), ("b", "x", 5), ("c", "y", 6), ("d", "y", 7)):
        driver.sees(record(version, holder, token))
        driver.wait()
    seen = driver.heard(HolderSeen)
    assert [(event.holder, event.fencing_token) for event in seen] == [("x", 5), ("y", 6), ("y", 7)]
    assert seen[0].takeover_after == pytest.approx(1.01 * TTL)


def test_it_tells_a_resignation(driver: Driver) -> None:
    driver.sees(record("a", "x", 5))
    driver.wait()
    driver.sees(record("b", "x", 5, resigned=True))
    seen = driver.heard(HolderSeen)
    assert [(event.resigned, event.takeover_after > 0) for event in seen] == [
        (False, True),
        (True, False),
    ]


# Time


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_step_of_the_wall_clock_changes_nothing_for_a_standby(
    driver: Driver, step: float
) -> None:
    driver.sees(record())
    driver.fail(driver.expect(Await))
    driver.step_wall(step)
    driver.later(1.01 * TTL - 0.001)
    driver.sees(record())
    driver.expect(Await)
    driver.later(0.002)
    assert driver.election.observation.takeover_in(driver.now) == 0.0


def test_a_suspend_makes_a_standby_wait_longer(driver: Driver) -> None:
    driver.sees(record())
    driver.fail(driver.expect(Await))
    driver.suspend(3600.0)
    driver.sees(record())
    assert driver.expect(Await).timeout == WAIT
    driver.later(1.01 * TTL)
    assert driver.election.observation.takeover_in(driver.now) == 0.0
