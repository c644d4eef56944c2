"""The election under whatever Hypothesis thinks of, and under seeded random faults for volume.

Cores with virtual clocks (rates within 0.5 %, suspends, steps of the wall clock) against real Lua
on three real servers. What is checked at each moment of true time stands in ``judge.py``: at most
one leader, rising fencing tokens, events in pairs, no lease longer than its request allows; and
after the last fault somebody leads in time.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.model.election.explorer import explore
from tests.model.election.fleet import Node
from tests.model.election.simulation import LINKS, Simulation
from tests.model.election.sites import Sites

WHICH = st.integers(0, 3)
"""Which candidate: taken modulo how many there are."""
PAUSES = st.sampled_from((0.0, 0.001, 0.3, 0.7, 1.3, 1.9, 2.03, 4.05, 8.2))
"""Seconds: around a third, the whole and the double of a ttl of 2 s."""


class ElectionMachine(RuleBasedStateMachine):
    """Candidates, servers and everything that can happen to them."""

    def __init__(self, sites: Sites) -> None:
        super().__init__()
        self.sites = sites
        self.copied: bytes | None = None

    @initialize(
        seed=st.integers(0, 2**32),
        ttls=st.sampled_from(((2.0, 2.0), (2.0, 2.0, 2.0), (4.0, 2.0), (4.0, 2.0, 2.0))),
        lead=st.booleans(),
    )
    def begin(self, seed: int, ttls: tuple[float, ...], lead: bool) -> None:
        self.world = Simulation(self.sites, seed)
        for ttl in ttls:
            self.world.join(ttl)
        if lead:
            self.world.must_elect()

    def node(self, which: int) -> Node:
        """Choose a candidate."""
        return self.world.nodes[which % len(self.world.nodes)]

    @rule(seconds=PAUSES)
    def time_passes(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(which=WHICH, seconds=PAUSES)
    def a_process_stands_still(self, which: int, seconds: float) -> None:
        self.world.pause(self.node(which))
        self.world.run(seconds)

    @rule(which=WHICH)
    def a_process_goes_on(self, which: int) -> None:
        self.world.resume(self.node(which))

    @rule(which=WHICH, seconds=PAUSES)
    def a_machine_sleeps(self, which: int, seconds: float) -> None:
        self.world.suspend(self.node(which))
        self.world.run(seconds)

    @rule(which=WHICH, seconds=st.sampled_from((3600.0, -3600.0, 1.0, -1.0)))
    def a_wall_clock_steps(self, which: int, seconds: float) -> None:
        self.world.step_wall(self.node(which), seconds)

    @rule(which=WHICH, link=st.sampled_from(LINKS), seconds=PAUSES)
    def a_connection_changes(self, which: int, link: str, seconds: float) -> None:
        self.node(which).link = link
        self.world.run(seconds)

    @rule(seconds=PAUSES)
    def data_are_lost(self, seconds: float) -> None:
        self.world.flush()
        self.world.run(seconds)

    @rule()
    def the_record_is_deleted(self) -> None:
        self.world.delete()

    @rule()
    def a_replica_gets_its_last_copy(self) -> None:
        self.copied = self.world.copy()

    @rule(which=st.integers(1, 2), how=st.sampled_from(("held", "copy", "fresh", "empty")))
    def another_server_takes_over(self, which: int, how: str) -> None:
        world = self.world
        place = world.sites.all.index(world.sites.master)
        to = world.sites.all[(place + which) % len(world.sites.all)]
        copied = {"copy": self.copied, "fresh": world.copy()}.get(how)
        world.fail_over(to, keep=how == "held", copied=copied)

    @rule(which=WHICH)
    def a_candidate_stops_or_starts(self, which: int) -> None:
        self.world.stop_or_start(self.node(which))

    @precondition(lambda self: len(self.world.nodes) < 4)
    @rule(which=WHICH, fork=st.booleans())
    def a_candidate_is_born(self, which: int, fork: bool) -> None:
        parent = self.node(which)
        if fork:
            self.world.fork(parent)
        else:
            self.world.join(parent.election.options.ttl)

    @precondition(lambda self: len(self.world.nodes) > 2)
    @rule(which=WHICH)
    def a_candidate_is_killed(self, which: int) -> None:
        self.world.kill(self.node(which))

    @rule()
    def all_is_well_again(self) -> None:
        self.world.must_elect()


def run_machine(sites: Sites, examples: int, steps: int) -> None:
    """Let Hypothesis look for a history that breaks a promise."""
    checks: list[Any] = [HealthCheck.too_slow, HealthCheck.data_too_large]
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=checks,
    )
    # Any: it takes every callable that makes a machine, though it is annotated with the class.
    make: Any = partial(ElectionMachine, sites)
    run_state_machine_as_test(make, settings=chosen)


def test_what_a_leader_sees_after_its_election_does_not_make_an_excused_overlap_wrong(
    sites: Sites,
) -> None:
    """Found by Hypothesis: the refusal of a renewal shows the ttl of one that was born later."""
    machine = ElectionMachine(sites)
    machine.begin(seed=302800, lead=False, ttls=(4.0, 2.0, 2.0))
    machine.a_candidate_is_killed(which=2)
    machine.a_candidate_stops_or_starts(which=1)
    machine.a_process_goes_on(which=0)
    machine.a_machine_sleeps(seconds=0.0, which=1)
    machine.a_connection_changes(link="good", seconds=4.05, which=0)
    machine.a_candidate_is_born(fork=False, which=1)
    machine.data_are_lost(seconds=0.0)
    machine.a_machine_sleeps(seconds=0.0, which=0)
    machine.a_connection_changes(link="good", seconds=0.3, which=0)
    machine.a_machine_sleeps(seconds=1.9, which=0)
    machine.data_are_lost(seconds=0.3)
    machine.a_candidate_is_born(fork=False, which=0)
    machine.data_are_lost(seconds=0.3)
    machine.teardown()
    assert machine.world.judge.excused


def test_no_history_that_hypothesis_finds_breaks_a_promise(sites: Sites) -> None:
    run_machine(sites, examples=120, steps=30)


def explore_many(sites: Sites, first: int, runs: int, *, replicate: bool = False) -> None:
    """Run seeded histories; a violation names its seed."""
    print(f"seeds {first} to {first + runs - 1}")
    elections = sum(
        explore(sites, seed, replicate=replicate).judge.elections
        for seed in range(first, first + runs)
    )
    assert elections > 2 * runs, "the histories are too quiet to show anything"


def test_no_history_of_random_faults_breaks_a_promise(sites: Sites) -> None:
    explore_many(sites, 1, 40)
    explore_many(sites, random.SystemRandom().randrange(10**9), 20)


def test_no_failover_by_real_replication_breaks_a_promise(sites: Sites) -> None:
    explore_many(sites, random.SystemRandom().randrange(10**9), 4, replicate=True)


def test_a_fork_does_not_run_on_a_machine_that_sleeps(sites: Sites) -> None:
    """Found by Hypothesis: the clocks of such children stood still, so nobody was elected."""
    world = Simulation(sites, 0)
    parent = world.join(2.0)
    world.suspend(parent)
    world.fork(parent)
    world.kill(parent)
    world.must_elect()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_histories_by_hypothesis(sites: Sites) -> None:
    run_machine(sites, examples=1000, steps=50)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_histories_of_random_faults(sites: Sites) -> None:
    explore_many(sites, random.SystemRandom().randrange(10**9), 2000)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_many_failovers_by_real_replication(sites: Sites) -> None:
    explore_many(sites, random.SystemRandom().randrange(10**9), 200, replicate=True)
