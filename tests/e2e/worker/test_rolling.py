"""Workers that are restarted one after another: never two leaders, and hardly ever none."""

from __future__ import annotations

import itertools
import re
import signal
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.e2e.worker.stage import WorkerFleet
from tests.support.celery.workers import Worker, leader_of

WAIT = 300.0
"""Seconds after which a standby looks by itself: what is over sooner, it was woken for."""

SAMPLES = """
import threading
from celery.signals import worker_ready

def sample(election):
    # From the first moment at which a tenure was seen to the last.
    token = first = last = None
    while True:
        before = time.monotonic()
        now = election._member.leader.fencing_token
        after = time.monotonic()
        if now != token:
            if token is not None:
                print(f"LED {token} {first:.6f} {last:.6f}", flush=True)
            token, first = now, after
        last = before
        time.sleep(0.002)

@worker_ready.connect
def begin(sender, **_):
    threading.Thread(target=sample, args=(sender.safe_leader,), daemon=True).start()
"""


class Tenure(NamedTuple):
    """The stretch in which a worker was seen to lead: moments of the system's monotonic clock."""

    token: int
    first: float
    last: float


def tenures(workers: list[Worker]) -> list[Tenure]:
    """Return those that have ended, in the order of their tokens."""
    pattern = re.compile(r"LED (\d+) ([\d.]+) ([\d.]+)")
    found = (match for worker in workers for match in pattern.findall(worker.child.output))
    return sorted(Tenure(int(token), float(first), float(last)) for token, first, last in found)


def roll(fleet: WorkerFleet, count: int) -> list[Tenure]:
    """Restart each of so many workers, the leader first if it is an old one; return the tenures."""
    fleet.write("solo", tasks=SAMPLES, leader_ttl=5.0, leader_wait=WAIT)
    present = [fleet.start("-P", "solo", "-c", "1") for _ in range(count)]
    for worker in present:
        worker.wait_ready()
    waiting = list(present)
    while waiting:
        leader = leader_of(present, 30)
        for worker in present:
            if worker is not leader:
                worker.child.wait_for_line("leads (takes over")
        old = leader if leader in waiting else waiting[0]
        waiting.remove(old)
        old.child.signal(signal.SIGTERM)
        assert old.child.wait(30) == 0
        present[present.index(old)] = new = fleet.start("-P", "solo", "-c", "1")
        new.wait_ready()
    leader = leader_of(present, 30)
    leader.child.signal(signal.SIGTERM)
    assert leader.child.wait(30) == 0
    return tenures(fleet.workers)


def handovers_of(found: list[Tenure]) -> list[float]:
    """Return the seconds without a leader between tenures."""
    return [after.first - before.last for before, after in itertools.pairwise(found)]


def judge(found: list[Tenure], measured: Callable[[str], None]) -> None:
    gaps = handovers_of(found)
    measured(
        f"{len(gaps)} planned handovers between workers: without a leader for "
        f"{statistics.median(gaps) * 1000:.1f} ms (median), {max(gaps) * 1000:.1f} ms (most), "
        f"{min(gaps) * 1000:.1f} ms (least)"
    )
    assert min(gaps) > 0, "two led"


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_a_restart_of_each_worker_hands_over_each_time(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    found = roll(fleet, 3)
    assert found
    judge(found, measured)


@pytest.mark.long
@pytest.mark.timeout(400)
def test_a_restart_of_twenty_workers_hands_over_each_time(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    began = time.monotonic()
    found = roll(fleet, 20)
    measured(f"20 workers restarted in {time.monotonic() - began:.0f} s")
    judge(found, measured)
