"""One history for each rule without which two candidates lead, or could.

Each of them fails when its rule is taken out: `python -m tests.mutants` does that.
"""

from __future__ import annotations

import pytest

from celery_safe_leader._core.messages import (
    Answer,
    Campaign,
    Observe,
    Renew,
    ReplyStatus,
    Resign,
)
from tests.model.election.fleet import Fleet, Node

TTL = 10.0


def standby(fleet: Fleet, ttl: float = TTL, **options: object) -> Node:
    """Start a second candidate; its first look is answered."""
    node = fleet.candidate(ttl, **options)  # type: ignore[arg-type]
    assert isinstance(fleet.step(node), Observe)
    return node


def renew(fleet: Fleet, leader: Node) -> None:
    """Let the leader renew, at the time it wants to."""
    fleet.until_due(leader)
    assert isinstance(fleet.step(leader), Renew)
    assert leader.leads


def run_out(fleet: Fleet, leader: Node, other: Node) -> None:
    """Let only ``other`` act until it is elected; the judge raises if that is too early."""
    fleet.steps(other, 4 * TTL, until=lambda: other.leads)
    assert other.leads, "nobody was elected"
    assert not leader.leads, "two lead at once"


def test_a_record_that_a_stale_replica_shows_is_observed_anew(fleet: Fleet) -> None:
    """No epoch in the version: the last renewal was not replicated."""
    leader = fleet.leader(TTL)
    other = standby(fleet)
    copied = fleet.copy()
    renew(fleet, leader)
    renew(fleet, leader)  # 6.7 s after the first look; the other one slept all the while
    fleet.fail_over(fleet.sites.all[1], copied=copied)
    fleet.advance(4.0)  # 10.7 s: by the first look alone it could campaign
    run_out(fleet, leader, other)


def test_a_server_that_is_promoted_again_with_its_old_record_is_observed_anew(
    fleet: Fleet,
) -> None:
    """No server's epoch in the version: from A to B, where the leader renews, and back to A."""
    first, second = fleet.sites.all[:2]
    leader = fleet.leader(TTL)
    other = standby(fleet)
    fleet.fail_over(second, copied=fleet.copy())
    renew(fleet, leader)
    renew(fleet, leader)
    fleet.fail_over(first, keep=True)
    fleet.advance(4.0)
    run_out(fleet, leader, other)


def test_a_promoted_server_has_the_run_id_it_had_and_another_replication_id(fleet: Fleet) -> None:
    """Why both are in the epoch: the servers of the model do as those of a failover."""
    first, second = fleet.sites.all[:2]
    before = first.epoch()
    fleet.fail_over(second)
    fleet.fail_over(first, keep=True)
    after = first.epoch()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_a_second_loss_of_data_is_told_from_the_first(fleet: Fleet) -> None:
    """Vacancies not named: the other one sleeps through the leader's repair of the first loss."""
    leader = fleet.leader(TTL)
    other = standby(fleet)
    fleet.flush()
    fleet.advance(0.1)
    fleet.step(other)  # Await
    fleet.step(other)  # sees the first vacancy
    fleet.until_due(leader)
    fleet.step(leader)  # finds the vacancy
    fleet.step(leader)  # takes it back
    renew(fleet, leader)
    renew(fleet, leader)
    fleet.flush()
    run_out(fleet, leader, other)


def test_a_vacancy_that_was_taken_back_does_not_look_untouched(fleet: Fleet) -> None:
    """Vacancy taken with its nonce kept: the token stays, so the nonce alone tells."""
    leader = fleet.leader(TTL)
    other = standby(fleet)
    fleet.flush()
    fleet.step(other)  # Await
    fleet.step(other)  # sees the vacancy
    assert other.election.observation.record is not None
    assert other.election.observation.record.holder == ""
    fleet.until_due(leader)
    fleet.step(leader)  # finds the vacancy
    fleet.step(leader)  # takes it back, and is cut off
    run_out(fleet, leader, other)


def test_a_lease_counts_from_before_the_sending(fleet: Fleet) -> None:
    """Deadline from the reply: it comes late, and nobody else hears of that."""
    leader = fleet.leader(TTL)
    fleet.until_due(leader)
    request = fleet.poll(leader)
    assert isinstance(request, Renew)
    outcome = fleet.execute(request)
    other = standby(fleet)
    fleet.advance(3.0)
    fleet.deliver(leader, request, outcome)
    run_out(fleet, leader, other)


def test_an_observation_counts_from_after_the_answer(fleet: Fleet) -> None:
    """Observation from sending: the look is under way while the leader renews."""
    leader = fleet.leader(TTL)
    other = fleet.candidate(TTL)
    look = fleet.poll(other)
    assert isinstance(look, Observe)
    renew(fleet, leader)
    renew(fleet, leader)
    fleet.deliver(other, look, fleet.execute(look))
    run_out(fleet, leader, other)


def test_a_standby_waits_for_the_longest_lease_it_saw(fleet: Fleet) -> None:
    """Own ttl only: that of the leader is twice as long."""
    leader = fleet.leader(2 * TTL)
    other = standby(fleet, TTL)
    run_out(fleet, leader, other)


def test_a_vacancy_carries_the_longest_lease_that_its_writer_saw(fleet: Fleet) -> None:
    """Own ttl only, in the vacancy that is all a later candidate sees."""
    leader = fleet.leader(2 * TTL)
    witness = standby(fleet, TTL)
    fleet.flush()
    fleet.step(witness)  # Await
    fleet.step(witness)  # writes the vacancy
    other = standby(fleet, TTL)
    run_out(fleet, leader, other)


def test_only_one_of_two_campaigns_for_the_same_version_wins(fleet: Fleet) -> None:
    """No compare-and-set: both have waited long enough, and one campaign is late."""
    leader = fleet.leader(TTL)
    first, second = standby(fleet), standby(fleet)
    fleet.step(first)
    fleet.step(second)  # both: Await
    fleet.advance(1.02 * TTL)
    campaigns = [fleet.poll(node) for node in (first, second)]
    assert all(isinstance(campaign, Campaign) for campaign in campaigns)
    for node, campaign in zip((first, second), campaigns, strict=True):
        assert campaign is not None
        fleet.deliver(node, campaign, fleet.execute(campaign))
    assert [leader.leads, first.leads, second.leads] == [False, True, False]


def test_clocks_that_run_half_a_percent_apart_from_true_time_do_no_harm(fleet: Fleet) -> None:
    """Margin 0: the leader's clocks are slow, the standby's are fast."""
    leader = fleet.leader(TTL, rates=(0.995, 0.995, 0.995))
    renew(fleet, leader)
    other = standby(fleet, rates=(1.005, 1.005, 1.005))
    run_out(fleet, leader, other)


def test_a_resignation_that_is_repeated_at_an_inherited_record_lets_nobody_in(
    fleet: Fleet,
) -> None:
    """Inherited resignation honoured: it says nothing about who led meanwhile elsewhere."""
    stale = fleet.sites.all[1]
    old = fleet.leader(TTL)
    copied = fleet.copy()  # what the replica has
    fleet.stop(old)
    request = fleet.poll(old)
    assert isinstance(request, Resign)
    fleet.execute(request)  # and the answer is lost
    successor = standby(fleet)
    fleet.step(successor)
    assert successor.leads
    fleet.fail_over(stale, copied=copied)
    fleet.execute(request)  # the same once more, at the copy that still names its sender
    third = standby(fleet)
    fleet.step(third)
    assert successor.leads
    assert not third.leads


def test_a_resignation_that_came_with_a_copy_lets_nobody_in(fleet: Fleet) -> None:
    """Inherited resignation honoured: here the copy itself says resigned."""
    old = fleet.leader(TTL)
    fleet.stop(old)
    fleet.step(old)
    copied = fleet.copy()
    successor = standby(fleet)
    fleet.step(successor)
    assert successor.leads
    fleet.fail_over(fleet.sites.all[1], copied=copied)
    third = standby(fleet)
    fleet.step(third)
    assert successor.leads
    assert not third.leads


def test_a_resigned_record_of_this_server_is_taken_at_once(fleet: Fleet) -> None:
    """The other side of the rule: a handover costs no waiting."""
    old = fleet.leader(TTL)
    other = standby(fleet)
    fleet.stop(old)
    fleet.step(old)
    fleet.step(other)  # Await
    fleet.step(other)
    fleet.step(other)
    assert other.leads
    assert fleet.truth.now < 2.5 * TTL


def test_a_campaign_that_arrives_twice_makes_one_leader(fleet: Fleet) -> None:
    leader = fleet.leader(TTL)
    other = standby(fleet)
    fleet.step(other)  # Await
    fleet.advance(1.02 * TTL)
    campaign = fleet.poll(other)
    assert isinstance(campaign, Campaign)
    outcome = fleet.execute(campaign)
    again = fleet.execute(campaign)
    assert isinstance(again, Answer)
    assert again.status is ReplyStatus.REJECTED
    fleet.deliver(other, campaign, outcome)
    assert other.leads
    assert not leader.leads


def test_a_renewal_that_arrives_twice_makes_two_versions(fleet: Fleet) -> None:
    """Nonces are made where the request is executed: a repeated one never repeats a version."""
    leader = fleet.leader(TTL)
    fleet.until_due(leader)
    request = fleet.poll(leader)
    assert isinstance(request, Renew)
    answers = [fleet.execute(request) for _ in range(5)]
    assert len({answer.record.version for answer in answers if isinstance(answer, Answer)}) == 5


def test_a_replica_answers_nothing_that_counts(fleet: Fleet) -> None:
    leader = fleet.leader(TTL)
    copied = fleet.copy()
    replica = fleet.sites.all[1]
    replica.promote()
    replica.restore(fleet.keys, copied)
    replica.demote()
    other = fleet.candidate(TTL)
    look = fleet.poll(other)
    assert isinstance(look, Observe)
    fleet.deliver(other, look, fleet.execute(look, replica))
    assert other.election.observation.record is None
    assert leader.leads


def token_of(node: Node) -> int:
    """Return the token of a leader."""
    lease = node.election.lease
    assert lease is not None
    return lease.fencing_token


@pytest.mark.parametrize("loss", ["flush", "delete"])
def test_lost_data_does_not_change_the_leader(fleet: Fleet, loss: str) -> None:
    leader = fleet.leader(TTL)
    token = token_of(leader)
    for _ in range(3):
        getattr(fleet, loss)()
        fleet.until_due(leader)
        fleet.step(leader)
        fleet.step(leader)
        assert leader.leads
        assert token_of(leader) == token


def test_taking_back_a_lost_record_too_late_does_not_revive_the_tenure(fleet: Fleet) -> None:
    """The answer comes after the old deadline: the old token is never elected again."""
    leader = fleet.leader(TTL)
    token = token_of(leader)
    fleet.advance(0.9 * TTL)
    fleet.flush()
    assert isinstance(fleet.step(leader), Renew)
    request = fleet.poll(leader)
    assert isinstance(request, Campaign)
    assert request.keep
    outcome = fleet.execute(request)
    fleet.advance(0.2 * TTL)
    fleet.deliver(leader, request, outcome)
    assert not leader.leads
    fleet.step(leader)  # the record is its own: a new tenure, at once
    assert token_of(leader) > token


@pytest.mark.parametrize("renewal", [{}, {"renewal": "monthly"}], ids=["without", "with"])
def test_a_hash_of_others_is_told_from_another_one(fleet: Fleet, renewal: dict[str, str]) -> None:
    """The first stood for a whole ttl; the second overwrote the leader's record just now."""

    def put() -> None:
        fleet.delete()
        fleet.sites.master.client.hset(fleet.keys.lease, mapping={"other": "y", **renewal})

    put()
    leader, other = fleet.candidate(TTL), standby(fleet)
    fleet.steps(leader, 2 * TTL, until=lambda: leader.leads)
    put()
    run_out(fleet, leader, other)


def put_back(fleet: Fleet, copied: bytes | None) -> None:
    """Bring a copy of the record back on the server that it was made on."""
    fleet.note("a copy of the record is brought back")
    fleet.judge.losses += 1
    fleet.sites.master.restore(fleet.keys, copied)


def resigned(fleet: Fleet, leader: Node, other: Node) -> None:
    """Let the leader resign, and another one follow it."""
    fleet.stop(leader)
    fleet.step(leader)
    fleet.steps(other, TTL, until=lambda: other.leads)
    assert other.leads


def test_the_own_record_is_observed_anew_once_it_was_gone(fleet: Fleet) -> None:
    """A version is one's own for as long as no other one was seen: it is brought back."""
    leader = fleet.leader(TTL)
    other = standby(fleet)
    copied = fleet.copy()
    resigned(fleet, leader, other)
    put_back(fleet, copied)
    leader.election.start(leader.clock.now())
    run_out(fleet, other, leader)


def test_a_resignation_that_is_brought_back_is_observed_anew(fleet: Fleet) -> None:
    """Whoever saw a later leader does not believe the resignation of an earlier one."""
    leader = fleet.leader(TTL)
    other, third = standby(fleet), standby(fleet)
    fleet.stop(leader)
    fleet.step(leader)
    copied = fleet.copy()
    fleet.steps(other, TTL, until=lambda: other.leads)
    while (seen := third.election.observation.record) is None or seen.holder != other.name:
        fleet.steps(third, 0.1)
    assert other.leads
    put_back(fleet, copied)
    run_out(fleet, other, third)
