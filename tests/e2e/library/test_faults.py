"""The fault table: three candidate processes, ttl 2 s, wait 0.4 s, each behind a link of its own.

In each line: no instant with two leaders, nobody exits, fencing tokens rise, and somebody leads
after the healing. Where Redis loses its data while the leader lives, the leader does not even
change. How long a takeover and a handover last is shown, and judged by ``make bench``.

The lines are played a few at a time, since most of their time is waiting, each with servers,
links and processes of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.e2e.faults import TTL, black_hole_for_all, slow_for_all, twelve_flushalls
from tests.e2e.library.stage import KEY, CandidateStage, Played, Scenario, perform
from tests.support.servers import installed_kinds

pytestmark = pytest.mark.quiet

AT_ONCE = 4
MIXED = ("asyncio", "blocking", "asyncio")
LEASE = f"{{leader:{KEY}}}:lease"


def steady(stage: CandidateStage) -> float:
    began = time.monotonic()
    time.sleep(2 * TTL)
    return began


def sigkill(stage: CandidateStage) -> float:
    fleet, killed = stage.fleet, 0.0
    for _ in range(2):
        leader = fleet.leader()
        time.sleep(random.uniform(0, TTL / 3))
        killed = leader.kill()
        successor = fleet.leader(other_than=leader)
        stage.measure("takeover after SIGKILL", successor.tenures[-1].start - killed)
        stage.replace(leader)
    return killed


def sigterm(stage: CandidateStage) -> float:
    fleet, told = stage.fleet, 0.0
    for _ in range(5):
        leader = fleet.leader()
        # Whoever just came has to have looked once before it can be woken.
        time.sleep(0.3)
        told = leader.terminate()
        successor = fleet.leader(other_than=leader)
        stage.measure("handover after SIGTERM", successor.tenures[-1].start - told)
        stage.replace(leader)
    return told


def sigstop(stage: CandidateStage) -> float:
    leader = stage.fleet.leader()
    leader.pause()
    stopped = time.monotonic()
    successor = stage.fleet.leader(other_than=leader)
    assert successor is not leader
    time.sleep(max(0.0, stopped + 3 * TTL - time.monotonic()))
    leader.resume()
    return time.monotonic()


def sigstop_standby(stage: CandidateStage) -> float:
    stage.fleet.leader()
    standby = stage.fleet.standbys()[0]
    standby.pause()
    time.sleep(3 * TTL)
    standby.resume()
    return time.monotonic()


def black_hole(stage: CandidateStage) -> float:
    leader = stage.fleet.leader()
    stage.link_of(leader).black_hole()
    broken = time.monotonic()
    stage.fleet.leader(other_than=leader)
    time.sleep(max(0.0, broken + 3 * TTL - time.monotonic()))
    assert leader.named("demoted")[-1]["reason"] == "expired"
    stage.link_of(leader).heal()
    return time.monotonic()


def slow_leader(stage: CandidateStage) -> float:
    link = stage.link_of(stage.fleet.leader())
    link.delay(0.3 * TTL)
    time.sleep(3 * TTL)
    link.heal()
    return time.monotonic()


def flushall(stage: CandidateStage) -> float:
    stage.server.client().flushall()
    lost = time.monotonic()
    time.sleep(1.5 * TTL)
    return lost


def keys_deleted(stage: CandidateStage) -> float:
    client = stage.server.client()
    keys = client.keys("*")
    assert LEASE in keys
    client.delete(*keys)
    lost = time.monotonic()
    time.sleep(1.5 * TTL)
    return lost


def restarted_empty(stage: CandidateStage) -> float:
    stage.server.restart_empty()
    back = time.monotonic()
    time.sleep(1.5 * TTL)
    return back


def long_outage(stage: CandidateStage) -> float:
    stage.server.kill()
    time.sleep(4 * TTL)
    stage.server.restart_empty()
    return time.monotonic()


def _stale_replica(stage: CandidateStage) -> Callable[[], float]:
    """Add a replica that replicates no longer; return what promotes it after the master's death."""
    replication = stage.add_link(stage.server)
    replica = stage.add_server(replica_of=replication.address)
    replication.black_hole()

    def fail_over() -> float:
        stage.server.kill()
        replica.promote()
        for link in stage.links:
            link.point_at(replica.port)
        return time.monotonic()

    return fail_over


def stale_replica(stage: CandidateStage) -> float:
    fail_over = _stale_replica(stage)
    time.sleep(TTL)
    return fail_over()


def replica_that_names_an_older_leader(stage: CandidateStage) -> float:
    fail_over = _stale_replica(stage)
    former = stage.fleet.leader()
    stage.link_of(former).black_hole()
    stage.fleet.leader(other_than=former)
    stage.link_of(former).heal()
    time.sleep(1.5 * TTL)
    return fail_over()


SCENARIOS = [
    Scenario("SIGKILL", sigkill),
    Scenario("SIGTERM", sigterm),
    Scenario("steady", steady, keeps_leader=True),
    Scenario("SIGSTOP for 3 ttl", sigstop),
    Scenario("SIGSTOP of a standby", sigstop_standby, keeps_leader=True),
    Scenario("leader's link black-holed for 3 ttl", black_hole),
    Scenario("all links black-holed for 3 ttl", black_hole_for_all),
    Scenario("leader's link slowed", slow_leader),
    Scenario("all links slowed", slow_for_all),
    Scenario("FLUSHALL", flushall, keeps_leader=True),
    Scenario("12 FLUSHALLs", twelve_flushalls, keeps_leader=True),
    Scenario("keys deleted", keys_deleted, keeps_leader=True),
    Scenario("restarted empty", restarted_empty, keeps_leader=True),
    Scenario("gone for 4 ttl and back empty", long_outage),
    Scenario("stale replica promoted", stale_replica),
    Scenario("promoted replica names an older leader", replica_that_names_an_older_leader),
    Scenario("SIGKILL, asyncio among them", sigkill, shells=MIXED),
    Scenario("SIGTERM, asyncio among them", sigterm, shells=MIXED),
    Scenario("SIGSTOP, asyncio among them", sigstop, shells=MIXED),
    Scenario("black hole, asyncio among them", black_hole, shells=MIXED),
    Scenario("12 FLUSHALLs, asyncio among them", twelve_flushalls, True, MIXED),
    Scenario("empty restart, asyncio among them", restarted_empty, True, MIXED),
    Scenario("outage, asyncio among them", long_outage, shells=MIXED),
]


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Played]]]:
    """Play those lines that were asked for, in their order."""
    mine = (item for item in request.session.items if item.path == request.path)
    given = [item.callspec.params.get("scenario") for item in mine if hasattr(item, "callspec")]
    chosen = [scenario for scenario in given if isinstance(scenario, Scenario)]
    kinds = installed_kinds()
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="scenario") as pool:
        yield {
            scenario.name: pool.submit(perform, scenario, kinds[place % len(kinds)])
            for place, scenario in enumerate(chosen)
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_faults(
    scenario: Scenario, plays: dict[str, Future[Played]], measured: Callable[[str], None]
) -> None:
    played = plays[scenario.name].result()
    measured(
        f"{scenario}: led {played.led_after * 1000:.0f} ms after healing, {played.leaders} tenures"
    )
    for what, times in played.measured.items():
        measured(f"{scenario}: {what}: " + " ".join(f"{t * 1000:.0f}" for t in times) + " ms")
