"""Beats and workers whose election, ledger and deduplication are behind Sentinels or in a cluster.

Behind Sentinels the broker is, too, and its master is killed. In the cluster the slot of all keys
changes its node twice, and no run may be lost or doubled for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from celery_safe_leader._store.keys import LedgerKeys
from tests.e2e.topology.migration import migrate
from tests.support.celery.chaos import MICROSECONDS, Fleet, problems
from tests.support.processes import wait_until
from tests.support.servers import Server, installed_kinds
from tests.support.servers.cluster import Cluster
from tests.support.servers.sentinels import SentinelGroup

TTL = 1.0
# They are searched for in the output: no words that a line of the log may hold by itself.
PASSWORD = "q7-of-the-servers"
SENTINELS_PASSWORD = "q7-of-the-sentinels"
STEPS = {"one": 0.5, "two": 0.7}
CHECKED = "The first publication of each periodic run is executed"


def _start(fleet: Fleet) -> None:
    fleet.start_worker("-c", "1")
    fleet.wait_working()
    for _ in range(2):
        fleet.start_beat()
    fleet.leader()
    fleet.workers[0].wait_for_line("Elected leader of shop:worker", 30)
    fleet.wait_served(_now())


def _now() -> int:
    return time.time_ns() // 1000


@pytest.mark.timeout(120)
def test_beats_and_workers_over_sentinels(tmp_path: Path, measured: Callable[[str], None]) -> None:
    kind = installed_kinds()[0]
    with (
        SentinelGroup(kind, password=PASSWORD, sentinel_password=SENTINELS_PASSWORD) as group,
        Fleet(
            tmp_path,
            group.url,
            group.url,
            STEPS,
            leader_ttl=TTL,
            broker_transport_options=group.options,
        ) as fleet,
    ):
        _start(fleet)
        former = group.master
        former.kill()
        over = group.wait_failed_over(former)
        at = _now()

        def served() -> bool:
            # kombu's own: if the broker goes while a message is not acknowledged, closing the
            # channel may raise an AttributeError, which ends the worker. A process manager would
            # start another.
            if not fleet.workers[-1].running:
                fleet.start_worker("-c", "1")
            return fleet.served(at)

        wait_until(served, 60, fleet.standing, interval=0.1)
        measured(f"beats over Sentinels: served again {time.monotonic() - over:.1f} s after it")
        # What was under way may be lost with the master, as replication is asynchronous.
        fleet.wait_served(_now() + 2 * MICROSECONDS)
        grids = {name: grid.since(at) for name, grid in fleet.grids.items()}
        later = [run for run in fleet.executions() if run.first >= at]
        assert {run.entry for run in later} == set(grids)
        worker = fleet.workers[-1]
        assert any(CHECKED in line and "sentinel://127.0.0.1" in line for line in worker.lines)
        wait_until(
            lambda: (
                "periodic runs are checked again" in worker.output
                or "Until Redis answers again" not in worker.output
            ),
            30,
            "runs that are checked",
        )
        secrets = (PASSWORD, SENTINELS_PASSWORD)
        output = "".join(
            child.output for child in [*fleet.workers, *(b.child for b in fleet.beats)]
        )
        assert not any(secret in output for secret in secrets)


@pytest.mark.timeout(120)
def test_beats_and_workers_in_a_cluster(tmp_path: Path, measured: Callable[[str], None]) -> None:
    kind = installed_kinds()[-1]
    key = LedgerKeys("shop").runs
    with (
        Server(kind) as broker,
        Cluster(kind, password=PASSWORD) as cluster,
        Fleet(tmp_path, broker.url, cluster.url(key), STEPS, leader_ttl=TTL) as fleet,
    ):
        _start(fleet)
        former = cluster.master_of(key)
        cluster.replica_of(former).ask("CLUSTER", "FAILOVER")
        cluster.wait_failed_over(key, former)
        fleet.wait_served(_now() + MICROSECONDS)
        migrate(cluster, key)
        fleet.wait_served(_now() + MICROSECONDS)
        fleet.leader().kill()
        fleet.leader(20)
        until = _now()
        fleet.wait_served(until, 30)
        fleet.stop_beats()
        fleet.wait_idle()
        runs = fleet.executions()
        measured(f"beats in a cluster: {len(runs)} runs, {fleet.dropped} dropped")
        assert problems(runs, fleet.grids, until) == []
        assert fleet.complaints() == []
