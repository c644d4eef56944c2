"""A leader: it renews, repairs what Redis lost, and ends on time."""

from __future__ import annotations

import pytest

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, StoreFailed
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew
from celery_safe_leader._core.state import State
from tests.unit.core.drive import TTL, Driver, record

THIRD = TTL / 3 + 1e-6
LENGTH = 0.99 * TTL


@pytest.fixture
def driver() -> Driver:
    """A leader under token 6, elected just now."""
    driver = Driver()
    driver.wins()
    assert driver.leads
    driver.told.clear()
    return driver


def renewal(driver: Driver) -> Renew:
    """Let time pass until it renews."""
    driver.later(THIRD)
    return driver.expect(Renew)


def test_it_renews_every_third_of_the_ttl(driver: Driver) -> None:
    for number in range(5):
        assert driver.poll() is None
        assert driver.election.pause(driver.now) == pytest.approx(TTL / 3)
        request = renewal(driver)
        assert (request.candidate_id, request.token) == ("me", 6)
        assert (request.ttl, request.longest_ttl) == (TTL, TTL)
        driver.answer(request, "accepted", record(f"own{number}", "me", 6))
    assert driver.leads
    assert driver.told == []


def test_a_renewal_is_due_a_third_after_the_sending_of_the_last(driver: Driver) -> None:
    request = renewal(driver)
    driver.later(1.0)
    driver.answer(request, "accepted", record("own1", "me", 6))
    assert driver.election.pause(driver.now) == pytest.approx(TTL / 3 - 1.0)


def test_its_lease_counts_from_before_the_sending(driver: Driver) -> None:
    request = renewal(driver)
    driver.later(2.0)
    driver.answer(request, "accepted", record("own1", "me", 6))
    assert driver.election.lease is not None
    assert driver.election.lease.deadline == request.sent_at.plus(LENGTH)


def test_a_tenure_keeps_its_beginning(driver: Driver) -> None:
    assert driver.election.lease is not None
    since = driver.election.lease.since
    driver.answer(renewal(driver), "accepted", record("own1", "me", 6))
    assert driver.election.lease.since == since


def test_from_the_deadline_on_it_does_not_lead(driver: Driver) -> None:
    driver.later(LENGTH - 0.001)
    assert driver.leads
    driver.later(0.001 + 1e-6)
    assert not driver.leads  # though nobody has told it yet
    assert driver.election.state is State.LEADING
    driver.tick()
    assert driver.election.state is State.STANDBY
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]
    driver.tick()
    assert driver.told == []


def test_an_answer_after_the_old_deadline_is_thrown_away(driver: Driver) -> None:
    request = renewal(driver)
    driver.later(LENGTH - THIRD + 0.001)  # its own lease would last
    driver.answer(request, "accepted", record("own1", "me", 6))
    assert not driver.leads
    assert driver.heard((Elected, Demoted)) == [Demoted(6, DemotionReason.EXPIRED)]


def test_whose_record_is_still_its_own_need_not_wait(driver: Driver) -> None:
    request = renewal(driver)
    driver.later(TTL)
    driver.answer(request, "accepted", record("own1", "me", 6))
    again = driver.expect(Campaign)
    assert (again.version, again.token, again.keep) == ("own1", 6, False)
    driver.answer(again, "accepted", record("own2", "me", 7))
    assert [event.fencing_token for event in driver.heard((Elected, Demoted))] == [6, 7]


def test_whose_record_is_not_exactly_its_own_waits(driver: Driver) -> None:
    driver.fail(renewal(driver))
    driver.later(TTL)
    request = driver.expect(Campaign)  # for the version of its last accepted write
    driver.answer(request, "rejected", record("unknown", "me", 6))
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(1.01 * TTL)
    driver.expect(Await)


def test_it_goes_on_leading_through_failures_that_are_short_enough(driver: Driver) -> None:
    driver.fail(renewal(driver))
    driver.later(0.5)
    driver.fail(driver.expect(Renew))
    driver.later(0.5)
    assert driver.leads
    driver.answer(driver.expect(Renew), "accepted", record("own1", "me", 6))
    assert driver.leads
    assert [event.failures for event in driver.heard((StoreFailed, Demoted))] == [1, 2]


def test_two_renewals_of_full_length_fit_into_a_lease(driver: Driver) -> None:
    timeout = driver.election.options.request_timeout
    request = renewal(driver)
    driver.later(timeout)
    driver.fail(request)
    driver.later(driver.election.pause(driver.now) or 0.0)
    driver.later(1e-6)
    request = driver.expect(Renew)
    assert driver.leads
    driver.later(timeout - 1.0)
    driver.answer(request, "accepted", record("own1", "me", 6))
    assert driver.leads


# Superseded


def test_another_holder_ends_the_tenure_at_once(driver: Driver) -> None:
    driver.answer(renewal(driver), "rejected", record("theirs", "other", 7))
    assert not driver.leads
    assert driver.heard((Elected, Demoted)) == [Demoted(6, DemotionReason.SUPERSEDED, "other")]
    driver.expect(Observe)


def test_an_older_record_of_its_own_is_no_right_to_lead(driver: Driver) -> None:
    driver.answer(renewal(driver), "rejected", record("old", "me", 4))
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.RECORD_LOST)]


def test_a_vacancy_from_a_later_time_is_not_taken_back(driver: Driver) -> None:
    driver.answer(renewal(driver), "rejected", record("vacancy", "", 9))
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.RECORD_LOST)]
    driver.expect(Observe)


def test_a_renewal_that_was_rejected_as_its_own_ends_the_tenure(driver: Driver) -> None:
    driver.answer(renewal(driver), "rejected", record("resigned", "me", 6))
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.RECORD_LOST)]


# Data lost


@pytest.mark.parametrize("status", ["vacant", "rejected"])
def test_it_takes_back_a_vacancy_in_a_second_step_under_its_token(
    driver: Driver, status: str
) -> None:
    driver.answer(renewal(driver), status, record("vacancy", "", 6))
    assert driver.leads
    request = driver.expect(Campaign)
    assert (request.version, request.token, request.keep) == ("vacancy", 6, True)
    driver.answer(request, "accepted", record("back", "me", 6))
    assert driver.leads
    assert driver.told == []
    driver.answer(renewal(driver), "accepted", record("own1", "me", 6))
    assert driver.leads


def test_losses_one_after_another_change_nothing(driver: Driver) -> None:
    request: Renew | Campaign = renewal(driver)
    for number in range(12):
        driver.later(0.1)
        driver.answer(request, "vacant", record(f"vacancy{number}", "", 6))
        request = driver.expect(Campaign)
        assert (request.version, request.keep) == (f"vacancy{number}", True)
        if number % 3 == 0:
            driver.answer(request, "accepted", record(f"back{number}", "me", 6))
            request = renewal(driver)
    assert driver.leads
    assert driver.told == []


def test_who_was_overtaken_at_a_vacancy_ends(driver: Driver) -> None:
    driver.answer(renewal(driver), "vacant", record("vacancy", "", 6))
    driver.answer(driver.expect(Campaign), "rejected", record("theirs", "other", 7))
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.SUPERSEDED, "other")]


def test_a_restoration_that_was_executed_twice_is_its_own(driver: Driver) -> None:
    driver.answer(renewal(driver), "vacant", record("vacancy", "", 6))
    driver.answer(driver.expect(Campaign), "rejected", record("back", "me", 6))
    assert driver.leads
    driver.answer(driver.expect(Renew), "accepted", record("own1", "me", 6))
    assert driver.leads


def test_after_a_restoration_without_an_answer_it_renews(driver: Driver) -> None:
    driver.answer(renewal(driver), "vacant", record("vacancy", "", 6))
    driver.fail(driver.expect(Campaign))
    driver.later(0.5)
    driver.answer(driver.expect(Renew), "accepted", record("back", "me", 6))
    assert driver.leads


def test_a_vacancy_is_not_taken_back_after_the_deadline(driver: Driver) -> None:
    request = renewal(driver)
    driver.later(LENGTH)
    driver.answer(request, "vacant", record("vacancy", "", 6))
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]
    driver.expect(Await)
    assert driver.election.observation.takeover_in(driver.now) == pytest.approx(1.01 * TTL)


def test_a_record_taken_back_too_late_does_not_revive_the_tenure(driver: Driver) -> None:
    driver.later(LENGTH - 0.5)
    driver.answer(driver.expect(Renew), "vacant", record("vacancy", "", 6))
    request = driver.expect(Campaign)
    driver.later(1.0)
    driver.answer(request, "accepted", record("back", "me", 6))
    assert not driver.leads
    assert driver.heard((Elected, Demoted)) == [Demoted(6, DemotionReason.EXPIRED)]
    again = driver.expect(Campaign)
    assert (again.version, again.keep) == ("back", False)


# Time


def test_a_wall_clock_set_forward_ends_the_lease(driver: Driver) -> None:
    driver.step_wall(3600.0)
    assert not driver.leads
    driver.tick()
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]
    request = driver.expect(Campaign)  # its record is untouched
    driver.answer(request, "accepted", record("own2", "me", 7))
    assert driver.leads


def test_a_wall_clock_set_back_does_not_prolong_the_lease(driver: Driver) -> None:
    driver.step_wall(-3600.0)
    assert driver.leads
    driver.later(LENGTH + 1e-6)
    assert not driver.leads


def test_a_wall_clock_set_back_between_sending_and_answer_does_not_prolong(driver: Driver) -> None:
    request = renewal(driver)
    driver.step_wall(-3600.0)
    driver.answer(request, "accepted", record("own1", "me", 6))
    driver.later(LENGTH + 1e-6)
    assert not driver.leads


def test_a_suspend_ends_the_lease(driver: Driver) -> None:
    driver.suspend(LENGTH + 1e-6)
    assert not driver.leads
    assert driver.poll() is not None
    assert driver.heard(Demoted) == [Demoted(6, DemotionReason.EXPIRED)]


def test_a_renewal_is_not_put_off_by_a_wall_clock_set_back(driver: Driver) -> None:
    driver.step_wall(-3600.0)
    driver.answer(renewal(driver), "accepted", record("own1", "me", 6))
    assert driver.leads


def test_a_late_answer_to_an_older_renewal_is_thrown_away(driver: Driver) -> None:
    late = renewal(driver)
    driver.fail(late)
    deadline = driver.election.lease.deadline  # type: ignore[union-attr]
    driver.answer(late, "accepted", record("own1", "me", 6))
    driver.answer(late, "rejected", record("theirs", "other", 9))
    assert driver.leads
    assert driver.election.lease.deadline == deadline  # type: ignore[union-attr]


def test_events_come_in_pairs_over_many_tenures(driver: Driver) -> None:
    driver.told.append(Elected(6, driver.now))
    for token in range(7, 20):
        driver.later(LENGTH + 1e-6)
        driver.answer(driver.expect(Campaign), "accepted", record(f"own{token}", "me", token))
    told = driver.heard((Elected, Demoted))
    assert [type(event) for event in told] == [Elected, Demoted] * 13 + [Elected]
    assert [event.fencing_token for event in told[1::2]] == list(range(6, 19))
    assert [event.fencing_token for event in told[0::2]] == list(range(6, 20))
