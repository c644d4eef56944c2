"""A candidate that wants replicas to confirm (``wait_replicas``)."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, StoreFailed
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew
from tests.unit.core.drive import TTL, WAIT, Driver, record

FULL = 1.01 * TTL


@pytest.fixture
def driver() -> Driver:
    return Driver(wait_replicas=1)


def campaign(driver: Driver) -> Campaign:
    """Let it observe with a confirmed witness, wait, and campaign."""
    assert driver.sees(record()).confirm
    driver.fail(driver.expect(Await))
    driver.later(FULL + 0.001)
    driver.told.clear()
    return driver.expect(Campaign)


def lead(driver: Driver) -> None:
    """Make it the leader."""
    driver.answer(campaign(driver), "accepted", record("own", "me", 6))
    assert driver.leads
    driver.told.clear()


def test_a_look_asks_for_a_witness_until_one_is_confirmed(driver: Driver) -> None:
    for _ in range(3):
        assert driver.sees(record(), confirmed=False).confirm
        driver.later(WAIT)
        driver.wait()
    assert driver.sees(record()).confirm
    driver.wait()
    assert not driver.sees(record()).confirm


def test_no_observation_begins_without_a_witness(driver: Driver) -> None:
    for _ in range(10):
        driver.sees(record(), confirmed=False)
        driver.later(WAIT)
        driver.wait()
    assert driver.sees(record()).confirm
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(FULL)


def test_an_unconfirmed_look_is_reported(driver: Driver) -> None:
    driver.sees(record(), confirmed=False)
    [failure] = driver.heard(StoreFailed)
    assert "fewer than 1 replicas confirmed" in str(failure.error)
    assert "wait_replicas=1" in str(failure.error)


def test_another_epoch_is_witnessed_anew(driver: Driver) -> None:
    driver.sees(record())
    driver.wait()
    driver.sees(record("w", epoch="e2"))
    driver.wait()
    assert driver.sees(record("w", epoch="e2")).confirm
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(FULL)


def test_an_unconfirmed_campaign_elects_nobody_and_is_not_its_own(driver: Driver) -> None:
    driver.answer(campaign(driver), "accepted", record("own", "me", 6), confirmed=False)
    assert not driver.leads
    assert driver.heard(Elected) == []
    driver.later(1.0)
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(FULL - 1.0)
    driver.expect(Await)


def test_unconfirmed_campaigns_do_not_change_the_version_again_and_again(driver: Driver) -> None:
    driver.answer(campaign(driver), "accepted", record("own", "me", 6), confirmed=False)
    end = driver.now.plus(FULL - 0.1)
    while driver.now.raw < end.raw:
        request = driver.poll()
        assert not isinstance(request, Campaign)
        if isinstance(request, Observe):
            driver.answer(request, "seen", record("own", "me", 6))
        elif request is not None:
            driver.fail(request)
        driver.later(0.1)


def test_an_unconfirmed_renewal_does_not_prolong_the_lease(driver: Driver) -> None:
    lead(driver)
    assert driver.election.lease is not None
    deadline = driver.election.lease.deadline
    driver.later(TTL / 3 + 1e-6)
    driver.answer(driver.expect(Renew), "accepted", record("own1", "me", 6), confirmed=False)
    assert driver.leads
    assert driver.election.lease.deadline == deadline
    assert [failure.failures for failure in driver.heard(StoreFailed)] == [1]


def test_after_an_unconfirmed_renewal_the_record_is_not_its_own(driver: Driver) -> None:
    lead(driver)
    driver.later(TTL / 3 + 1e-6)
    driver.answer(driver.expect(Renew), "accepted", record("own1", "me", 6), confirmed=False)
    driver.later(TTL)
    driver.tick()
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]
    left = driver.election.observation.takeover_in(driver.now)
    assert left == pytest.approx(FULL - TTL)


def test_a_confirmed_renewal_after_an_unconfirmed_one_counts(driver: Driver) -> None:
    lead(driver)
    driver.later(TTL / 3 + 1e-6)
    driver.answer(driver.expect(Renew), "accepted", record("own1", "me", 6), confirmed=False)
    driver.later(0.5)
    request = driver.expect(Renew)
    driver.answer(request, "accepted", record("own2", "me", 6))
    assert driver.election.lease is not None
    assert driver.election.lease.deadline == request.sent_at.plus(0.99 * TTL)


def test_an_unconfirmed_restoration_is_looked_after_again(driver: Driver) -> None:
    lead(driver)
    driver.later(TTL / 3 + 1e-6)
    driver.answer(driver.expect(Renew), "vacant", record("vacancy", "", 6))
    driver.answer(driver.expect(Campaign), "accepted", record("back", "me", 6), confirmed=False)
    assert driver.leads
    driver.later(0.5)
    request = driver.poll()
    assert isinstance(request, Renew | Campaign)
    assert request.token == 6


def test_unconfirmed_writes_space_the_attempts_out(driver: Driver) -> None:
    lead(driver)
    driver.later(TTL / 3 + 1e-6)
    pauses = []
    while driver.leads:
        request = driver.expect(Renew)
        driver.answer(request, "accepted", record(request.nonce, "me", 6), confirmed=False)
        pauses.append(driver.election.pause(driver.now) or 0.0)
        driver.later(pauses[-1] + 1e-6)
    assert pauses[:4] == pytest.approx([0.2, 0.4, 0.8, 1.6])
