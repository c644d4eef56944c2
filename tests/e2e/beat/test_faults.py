"""The fault table with real beats: three processes, ttl 2 s, wait 0.4 s, an entry every second.

In each line: no two beats send the entry less than half a second apart, nobody exits, dispatch
goes on in time, and the moments that the messages stand for have neither gap nor overlap.

Each of the three series has servers, links and beats of its own, which go through its faults one
after the other; the series are played at once, since most of their time is waiting.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.beat.stage import TTL, BeatStage, Result, Scene, perform
from tests.e2e.faults import black_hole_for_all, slow_for_all, twelve_flushalls
from tests.support.servers import installed_kinds

pytestmark = pytest.mark.quiet

LEASE = "{leader:shop}:beat:lease"
RUNS = "{leader:shop}:runs"


def steady(stage: BeatStage) -> float:
    began = time.monotonic()
    time.sleep(2 * TTL)
    return began


def sigkill(stage: BeatStage) -> float:
    leader = stage.leader()
    time.sleep(random.uniform(0, TTL / 3))
    killed = leader.kill()
    stage.leader(other_than=leader)
    stage.replace(leader).wait_ready()
    return killed


def sigterm(stage: BeatStage) -> float:
    leader = stage.leader()
    told = leader.terminate()
    stage.leader(other_than=leader)
    stage.replace(leader).wait_ready()
    return told


def sigstop(stage: BeatStage) -> float:
    leader = stage.leader()
    leader.pause()
    stopped = time.monotonic()
    stage.leader(other_than=leader)
    time.sleep(max(0.0, stopped + 3 * TTL - time.monotonic()))
    resumed = time.monotonic()
    leader.resume()
    leader.child.wait_for_line("Demoted: no longer leader", 30)
    return resumed


def black_hole(stage: BeatStage) -> float:
    leader = stage.leader()
    link = stage.link_of(leader)
    link.black_hole()
    broken = time.monotonic()
    stage.leader(other_than=leader)
    time.sleep(max(0.0, broken + 3 * TTL - time.monotonic()))
    assert "confirmed no renewal" in leader.lines("Demoted")[-1]
    link.heal()
    return time.monotonic()


def flushall(stage: BeatStage) -> float:
    stage.server.client().flushall()
    return time.monotonic()


def keys_deleted(stage: BeatStage) -> float:
    client = stage.server.client()
    keys = client.keys("*")
    assert {LEASE, RUNS} <= set(keys)
    client.delete(*keys)
    return time.monotonic()


def restarted_empty(stage: BeatStage) -> float:
    stage.server.restart_empty()
    return time.monotonic()


def long_outage(stage: BeatStage) -> float:
    stage.server.kill()
    time.sleep(4 * TTL)
    stage.server.restart_empty()
    return time.monotonic()


def stale_replica(stage: BeatStage) -> float:
    replication = stage.add_link(stage.server)
    replica = stage.add_server(replica_of=replication.address)
    replication.black_hole()
    time.sleep(1.5 * TTL)  # runs that the replica knows nothing of
    stage.server.kill()
    replica.promote()
    for link in stage.links:
        link.point_at(replica.port)
    stage.server = replica
    return time.monotonic()


SERIES = {
    "losses": [
        Scene("steady", steady, keeps_leader=True),
        Scene("FLUSHALL", flushall, keeps_leader=True),
        Scene("12 FLUSHALLs", twelve_flushalls, keeps_leader=True),
        Scene("keys deleted", keys_deleted, keeps_leader=True),
        Scene("restarted empty", restarted_empty, keeps_leader=True),
    ],
    "processes": [
        Scene("SIGKILL", sigkill),
        Scene("SIGTERM", sigterm),
        Scene("SIGSTOP for 3 ttl", sigstop),
        Scene("leader's link black-holed for 3 ttl", black_hole),
    ],
    "links": [
        Scene("all links slowed", slow_for_all),
        Scene("all links black-holed for 3 ttl", black_hole_for_all),
        Scene("stale replica promoted", stale_replica),
        Scene("gone for 4 ttl and back empty", long_outage, forgets=True),
    ],
}
SCENES = [scene for scenes in SERIES.values() for scene in scenes]


def play(series: str, chosen: dict[str, Future[Result]], kind: str, folder: Path) -> None:
    """Play the chosen lines of a series; after one that failed the stage is not to be trusted."""
    scenes = [scene for scene in SERIES[series] if scene.name in chosen]
    error: BaseException | None = None
    try:
        with BeatStage(kind, folder) as stage:
            for scene in scenes:
                chosen[scene.name].set_result(perform(stage, scene))
    except BaseException as exc:
        error = exc
    for scene in scenes:
        if error is not None and not chosen[scene.name].done():
            chosen[scene.name].set_exception(error)
            error = RuntimeError(f"not played after the failure of {scene}")


@pytest.fixture(scope="module")
def plays(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Result]]]:
    """What comes of each line that was asked for; the three series are played at once."""
    mine = (item for item in request.session.items if item.path == request.path)
    given = [item.callspec.params.get("scene") for item in mine if hasattr(item, "callspec")]
    asked = [scene.name for scene in given if isinstance(scene, Scene)]
    results = {name: Future[Result]() for name in asked}
    kinds = installed_kinds()
    with ThreadPoolExecutor(len(SERIES)) as pool:
        for place, series in enumerate(SERIES):
            if any(scene.name in asked for scene in SERIES[series]):
                folder = tmp_path_factory.mktemp(series)
                pool.submit(play, series, results, kinds[place % len(kinds)], folder)
        yield results


@pytest.mark.timeout(240)
@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_faults_with_beats(
    scene: Scene, plays: dict[str, Future[Result]], measured: Callable[[str], None]
) -> None:
    result = plays[scene.name].result()
    measured(
        f"beats, {scene}: dispatched {result.resumed_after * 1000:.0f} ms after healing, longest "
        f"pause {result.longest_pause:.2f} s, {result.messages} messages by {result.beats} beat(s)"
    )
