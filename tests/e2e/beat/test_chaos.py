"""Whatever becomes of the leader, each due run is executed exactly once.

Three beats and two workers; every five seconds the leader is killed, stopped for three ttl, or
told to end. In the end the due moments that the executions stand for are laid end to end.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.celery.chaos import MICROSECONDS, Fleet, doubles, problems
from tests.support.celery.leader_faults import LeaderFaults
from tests.support.servers import Server, installed_kinds

TTL = 1.0
WAIT = 0.2
EVERY = 5.0
"""Seconds between two faults."""
STEPS = {f"entry-{index:02}": round(0.5 + index * 1.5 / 19, 3) for index in range(20)}
"""From 0.5 s to 2 s."""
MOST_LATE = 1.0
"""Seconds before the end, up to which all due moments must have been served: beats were well."""


def run(folder: Path, seconds: float, measured: Callable[[str], None]) -> None:
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    with (
        Server(installed_kinds()[0]) as server,
        Fleet(folder, server.url, server.url, STEPS, leader_ttl=TTL, leader_wait=WAIT) as fleet,
    ):
        for _ in range(2):
            fleet.start_worker("-c", "1")
        fleet.wait_working()
        for _ in range(3):
            fleet.start_beat()
        chaos = LeaderFaults(fleet, random.Random(seed), TTL)
        fleet.leader()
        end = time.monotonic() + seconds
        while (next_strike := time.monotonic() + EVERY) < end:
            chaos.strike()
            chaos.rest(next_strike)
        chaos.wake_all()
        fleet.leader()
        time.sleep(2 * TTL)
        until = time.time_ns() // 1000 - round(MOST_LATE * MICROSECONDS)
        fleet.stop_beats()
        fleet.wait_idle()
        executions = fleet.executions()
        found = problems(executions, fleet.grids, until)
        measured(
            f"chaos of {seconds:.0f} s (seed {seed}): {chaos.faults.total()} faults "
            f"{dict(chaos.faults)}, {fleet.takeovers} tenures, {len(executions)} runs of "
            f"{len(STEPS)} entries, {len(found)} lost or doubled, {len(doubles(executions))} "
            f"executed twice, {fleet.dropped} second publications dropped"
        )
        assert found == []
        assert fleet.complaints() == []
        assert fleet.takeovers >= chaos.faults.total(), "the faults hit no leader"
        assert len({run.token for run in executions}) > chaos.faults.total() // 2


@pytest.mark.timeout(150)
def test_a_minute_of_faults_of_the_leader(tmp_path: Path, measured: Callable[[str], None]) -> None:
    run(tmp_path, 60, measured)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_ten_minutes_of_faults_of_the_leader(
    tmp_path: Path, measured: Callable[[str], None]
) -> None:
    run(tmp_path, 600, measured)
