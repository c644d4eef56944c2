"""Beats that copied the ledger on standby take over: after SIGTERM, SIGKILL, losses of Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.beat.stage import BeatStage
from tests.support.celery.beats import Beat
from tests.support.celery.inbox import gaps
from tests.support.servers import installed_kinds

STEP = 0.1
SCHEDULE = f"""{{
    "tick": {{"task": "shop.work", "schedule": {STEP}, "kwargs": {{"entry": "tick"}}}},
}} | {{
    f"idle-{{n}}": {{"task": "shop.work", "schedule": 1e7, "kwargs": {{"entry": "idle"}}}}
    for n in range(500)
}}"""
COPIED, LOADED = "Copied the ledger of shop", "Loaded the ledger of shop"


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[BeatStage]:
    with BeatStage(installed_kinds()[0], tmp_path, schedule=SCHEDULE, count=1) as stage:
        leader = stage.wait_settled()
        # Not before all entries are in the ledger: a copy would be of fewer, and soon be dropped.
        stage.start(stage.places[leader.name])
        yield stage


def copies(beat: Beat) -> int:
    return len(beat.lines(COPIED))


def wait_warm(stage: BeatStage) -> Beat:
    """Wait until the standby has a copy."""
    (standby,) = stage.standbys()
    standby.child.wait_for_line(COPIED, 90)
    return standby


def loaded(beat: Beat) -> str:
    """Return what it says of its last election."""
    beat.child.wait_for_line(LOADED)
    return beat.lines(LOADED)[-1].partition("entries, ")[2]


@pytest.mark.timeout(300)
def test_a_warm_standby_takes_over_in_order_and_loses_no_run(stage: BeatStage) -> None:
    began = stage.inbox.sent(entry="tick")[0].at
    ends: list[Callable[[Beat], float]] = [Beat.terminate, Beat.kill]
    for end in ends:
        leader, standby = stage.leader(), wait_warm(stage)
        ended = end(leader)
        assert stage.leader(other_than=leader) is standby
        stage.inbox.wait_for(5, entry="tick", since=ended, pid=standby.pid)
        assert loaded(standby).startswith("warm (1 of them read), ")
        order = [
            next(n for n, line in enumerate(standby.child.lines) if text in line)
            for text in (COPIED, "Elected leader", LOADED, "Due runs of shop")
        ]
        assert order == sorted(order)
        stage.replace(leader).wait_standing_by()
    sent = stage.inbox.sent(entry="tick", since=began)
    assert gaps(sent, STEP) == []


def flushed(stage: BeatStage, leader: Beat) -> None:
    stage.server.client().flushall()
    leader.child.wait_for_line("this leader restored", 60)


def promoted(stage: BeatStage, leader: Beat) -> None:
    client = stage.server.client()
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    client.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("event", [flushed, promoted])
def test_a_copy_from_before_redis_lost_or_may_have_lost_runs_is_not_believed(
    stage: BeatStage, event: Callable[[BeatStage, Beat], None]
) -> None:
    leader, standby = stage.leader(), wait_warm(stage)
    event(stage, leader)
    ended = leader.terminate()
    assert stage.leader(other_than=leader) is standby
    stage.inbox.wait_for(5, entry="tick", since=ended, pid=standby.pid)
    # Found out at the election; or by a look before it, after which it was copied anew.
    said = loaded(standby)
    assert said.startswith("all read (") or copies(standby) > 1, said
