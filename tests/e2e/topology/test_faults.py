"""Failovers by Sentinels and in a cluster: three candidate processes, ttl 2 s, wait 0.4 s.

In each line: no instant with two leaders, nobody exits, fencing tokens rise, and somebody leads
after the failover. All servers are real processes with passwords.

The lines are played a few at a time, since most of their time is waiting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.e2e.topology.migration import migrate
from tests.e2e.topology.stage import LEASE, TTL, Outcome, Scene, TopologyStage, perform
from tests.support.processes.waiting import wait_until
from tests.support.servers.kinds import all_kinds, installed_kinds
from tests.support.servers.sentinels import is_master

pytestmark = pytest.mark.quiet

AT_ONCE = 5


# By Sentinels


def master_killed(stage: TopologyStage) -> float:
    former = stage.group.master
    killed = time.monotonic()
    former.kill()
    over = stage.group.wait_failed_over(former, replicas=stage.wait_replicas)
    stage.measured["failover"] = over - killed
    return over


def master_killed_and_back(stage: TopologyStage) -> float:
    former = stage.group.master
    over = master_killed(stage)
    former.start()  # as a master without data, until the Sentinels tell it whom to follow
    stage.group.wait_whole(replicas=2)
    return over


def master_and_leader_killed(stage: TopologyStage) -> float:
    stage.fleet.leader().kill()
    return master_killed(stage)


def master_paused(stage: TopologyStage) -> float:
    former = stage.group.master
    paused = time.monotonic()
    former.pause()
    over = stage.group.wait_failed_over(former, replicas=stage.wait_replicas)
    stage.measured["failover"] = over - paused
    time.sleep(TTL)
    former.resume()
    return over


def failover_by_order(stage: TopologyStage) -> float:
    former = stage.group.master
    told = time.monotonic()
    stage.group.fail_over()
    over = stage.group.wait_failed_over(former, replicas=stage.wait_replicas)
    stage.measured["failover"] = over - told
    return over


def failover_by_order_twice(stage: TopologyStage) -> float:
    failover_by_order(stage)
    stage.group.wait_whole(replicas=2)
    return failover_by_order(stage)


def leader_paused_over_a_failover(stage: TopologyStage) -> float:
    leader = stage.fleet.leader()
    leader.pause()
    over = failover_by_order(stage)
    stage.fleet.leader(10, other_than=leader)
    leader.resume()
    return max(over, time.monotonic())


def newcomer_after_an_ordered_failover(stage: TopologyStage) -> float:
    over = failover_by_order(stage)
    stage.join()  # it never knew the old master, which may still be one
    return over


def two_masters(stage: TopologyStage) -> float:
    former = stage.group.master
    over = failover_by_order(stage)
    stage.join()
    wait_until(lambda: not is_master(former), 30, "the old master's demotion")
    stage.measured["demotion of the old master"] = time.monotonic() - over
    return time.monotonic()


def no_sentinels(stage: TopologyStage) -> float:
    for sentinel in stage.group.sentinels:
        sentinel.process.pause()
    time.sleep(3 * TTL)
    for sentinel in stage.group.sentinels:
        sentinel.process.resume()
    return time.monotonic()


# In a cluster


def slot_master_killed(stage: TopologyStage) -> float:
    former = stage.cluster.master_of(LEASE)
    killed = time.monotonic()
    former.kill()
    over = stage.cluster.wait_failed_over(LEASE, former)
    stage.measured["failover"] = over - killed
    return over


def slot_master_killed_and_back(stage: TopologyStage) -> float:
    former = stage.cluster.master_of(LEASE)
    over = slot_master_killed(stage)
    former.start()
    stage.cluster.wait_whole()
    return time.monotonic() if stage.wait_replicas else over


def seeds_killed(stage: TopologyStage) -> float:
    """The nodes that the URL names are gone: the others were learned from them."""
    for seed in stage.cluster.seeds(LEASE):
        seed.kill()
    return slot_failover(stage)


def slot_failover(stage: TopologyStage) -> float:
    former = stage.cluster.master_of(LEASE)
    told = time.monotonic()
    stage.cluster.replica_of(former).ask("CLUSTER", "FAILOVER")
    over = stage.cluster.wait_failed_over(LEASE, former)
    stage.measured["failover"] = over - told
    return over


def slot_failover_by_force(stage: TopologyStage) -> float:
    former = stage.cluster.master_of(LEASE)
    stage.cluster.replica_of(former).ask("CLUSTER", "FAILOVER", "TAKEOVER")
    return stage.cluster.wait_failed_over(LEASE, former)


def slot_migrated(stage: TopologyStage) -> float:
    migrate(stage.cluster, LEASE)
    return time.monotonic()


def slot_migrated_slowly(stage: TopologyStage) -> float:
    migrate(stage.cluster, LEASE, 1.5 * TTL)
    return time.monotonic()


# On both


def leader_killed(stage: TopologyStage) -> float:
    leader = stage.fleet.leader()
    killed = leader.kill()
    successor = stage.fleet.leader(other_than=leader)
    stage.measured["takeover"] = successor.tenures[-1].start - killed
    stage.join()
    return killed


def leader_told_to_stop(stage: TopologyStage) -> float:
    leader = stage.fleet.leader()
    time.sleep(1.0)  # the others have looked once
    told = leader.terminate()
    successor = stage.fleet.leader(other_than=leader)
    stage.measured["handover"] = successor.tenures[-1].start - told
    stage.join()
    return told


def leader_stopped(stage: TopologyStage) -> float:
    leader = stage.fleet.leader()
    leader.pause()
    time.sleep(3 * TTL)
    leader.resume()
    return time.monotonic()


def emptied(stage: TopologyStage) -> float:
    for _ in range(5):
        stage.master.client().flushall()
        time.sleep(random.uniform(0, 0.5 * TTL))
    return time.monotonic()


def emptied_and_failed_over(stage: TopologyStage) -> float:
    stage.master.client().flushall()
    return master_killed(stage) if stage.topology == "sentinel" else slot_master_killed(stage)


def failed_over_and_leader_killed(stage: TopologyStage) -> float:
    over = failover_by_order(stage) if stage.topology == "sentinel" else slot_failover(stage)
    return max(over, leader_killed(stage))


ON_BOTH: dict[str, tuple[Callable[[TopologyStage], float], bool]] = {
    "leader killed": (leader_killed, False),
    "leader told to stop": (leader_told_to_stop, False),
    "leader stopped for 3 ttl": (leader_stopped, False),
    "5 FLUSHALLs": (emptied, True),
    "FLUSHALL, then the master killed": (emptied_and_failed_over, False),
    "leader killed right after an ordered failover": (failed_over_and_leader_killed, False),
}
"""Name -> what happens, and whether the leader stays."""

SHORT = [
    Scene("master killed", "sentinel", master_killed),
    Scene("SENTINEL FAILOVER", "sentinel", failover_by_order, wait_replicas=1),
    Scene("master killed", "cluster", slot_master_killed),
    Scene("CLUSTER FAILOVER", "cluster", slot_failover),
    Scene("slot migrated", "cluster", slot_migrated, keeps_leader=True),
]
LONG = [
    Scene("SENTINEL FAILOVER, without wait_replicas", "sentinel", failover_by_order),
    Scene("master killed, replicas asked", "sentinel", master_killed, wait_replicas=1),
    Scene("master killed, and back empty", "sentinel", master_killed_and_back),
    Scene("master and leader killed", "sentinel", master_and_leader_killed),
    Scene("master paused, and awake after the failover", "sentinel", master_paused, 1),
    Scene("SENTINEL FAILOVER twice", "sentinel", failover_by_order_twice, 1),
    Scene("leader paused over a failover", "sentinel", leader_paused_over_a_failover, 1),
    Scene("a newcomer", "sentinel", newcomer_after_an_ordered_failover, 1),
    Scene("two masters after SENTINEL FAILOVER", "slow sentinel", two_masters, 0, True),
    Scene("two masters after SENTINEL FAILOVER, replicas asked", "slow sentinel", two_masters, 1),
    Scene("all Sentinels paused for 3 ttl", "sentinel", no_sentinels, keeps_leader=True),
    Scene("master killed, and back", "cluster", slot_master_killed_and_back),
    Scene("master killed, and back, replica asked", "cluster", slot_master_killed_and_back, 1),
    Scene("seeds killed", "cluster", seeds_killed),
    Scene("CLUSTER FAILOVER TAKEOVER", "cluster", slot_failover_by_force),
    Scene("slot migrated over 4.5 ttl", "cluster", slot_migrated_slowly, keeps_leader=True),
    *(
        Scene(name, topology, play, 1 if topology == "sentinel" else 0, stays)
        for name, (play, stays) in ON_BOTH.items()
        for topology in ("sentinel", "cluster")
    ),
]


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """Play those lines that were asked for, in their order."""
    mine = (item for item in request.session.items if item.path == request.path)
    given = [item.callspec.params.get("scene") for item in mine if hasattr(item, "callspec")]
    chosen = [scene for scene in given if isinstance(scene, Scene)]
    # The oldest server goes at its own pace, which is too slow for the short forms.
    kinds = all_kinds() if any(scene not in SHORT for scene in chosen) else installed_kinds()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scene") as pool:
        yield {
            str(scene): pool.submit(perform, scene, kinds[place % len(kinds)])
            for place, scene in enumerate(chosen)
        }
        pool.shutdown(cancel_futures=True)


def _judge(
    scene: Scene, plays: dict[str, Future[Outcome]], measured: Callable[[str], None]
) -> None:
    outcome = plays[str(scene)].result()
    times = "".join(f", {what} {s * 1000:.0f} ms" for what, s in outcome.measured.items())
    measured(
        f"{scene}: led {outcome.led_after * 1000:.0f} ms after it, {outcome.tenures} tenures{times}"
    )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scene", SHORT, ids=str)
def test_failovers(
    scene: Scene, plays: dict[str, Future[Outcome]], measured: Callable[[str], None]
) -> None:
    _judge(scene, plays, measured)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("scene", LONG, ids=str)
def test_more_failovers(
    scene: Scene, plays: dict[str, Future[Outcome]], measured: Callable[[str], None]
) -> None:
    _judge(scene, plays, measured)
