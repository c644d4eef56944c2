"""The next beat dispatches where the last one ended: after SIGTERM, and after SIGKILL.

Looked at is an entry that is due every 20 ms, so that none of its runs is missed. How long it takes
is shown, and judged by ``make bench``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from tests.e2e.beat.stage import BeatStage
from tests.support.celery.beats import Beat
from tests.support.celery.inbox import gaps
from tests.support.servers import installed_kinds

STEP = 0.02
SCHEDULE = f'{{"tick": {{"task": "shop.work", "schedule": {STEP}, "kwargs": {{"entry": "tick"}}}}}}'
HANDOVERS = 5
TAKEOVERS = 2


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[BeatStage]:
    with BeatStage(installed_kinds()[0], tmp_path, schedule=SCHEDULE) as stage:
        stage.wait_settled()
        yield stage


def succeed(stage: BeatStage, leader: Beat, end: Callable[[], float]) -> tuple[float, float]:
    """End the leader; return after how long the next one ticked, and dispatched."""
    told = end()
    successor = stage.leader(other_than=leader)
    tick = successor.child.wait_for_line("Loaded the ledger of").at - told
    sent = stage.inbox.wait_for(1, since=told, pid=successor.pid)
    stage.replace(leader).wait_standing_by()
    return tick, sent[0].at - told


def in_ms(seconds: list[float]) -> str:
    return " ".join(f"{1000 * value:.0f}" for value in sorted(seconds)) + " ms"


@pytest.mark.timeout(300)
def test_sigterm_hands_over_and_a_standby_takes_over_from_a_killed_one(
    stage: BeatStage, measured: Callable[[str], None]
) -> None:
    began = stage.inbox.sent()[0].at
    handovers = []
    for _ in range(HANDOVERS):
        leader = stage.leader()
        handovers.append(succeed(stage, leader, leader.terminate))
    takeovers = []
    for _ in range(TAKEOVERS):
        leader = stage.leader()
        takeovers.append(succeed(stage, leader, leader.kill))
    ticks = [tick for tick, _ in handovers]
    measured(
        f"beats, SIGTERM: median {1000 * median(ticks):.0f} ms to the next leader's first tick: "
        + in_ms(ticks)
    )
    measured("beats, SIGTERM: to its first message: " + in_ms([sent for _, sent in handovers]))
    measured(
        f"beats, SIGKILL: to the first tick: {in_ms([tick for tick, _ in takeovers])}, "
        f"to the first message: {in_ms([sent for _, sent in takeovers])}"
    )
    # The lease of one that was killed is waited for, that of one that was told to stop is not.
    assert min(tick for tick, _ in takeovers) > 0
    assert gaps(stage.inbox.sent(since=began), STEP) == []
