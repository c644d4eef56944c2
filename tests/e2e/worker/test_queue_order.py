"""The leader queue comes first where a worker reads its queues in a fixed order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

NOTES = """
@app.task(name="ordinary")
def ordinary():
    while not store.exists("all are there"):
        time.sleep(0.01)
    store.rpush("order", "ordinary")

@app.task(name="first")
@leader_only
def first():
    store.rpush("order", "leader-only")
"""
WAITING = 200


@pytest.mark.timeout(120)
def test_a_leader_only_call_does_not_wait_until_all_other_queues_are_empty(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    fleet = WorkerFleet(children, tmp_path, valkey_server, valkey_server.url)
    options = {"queue_order_strategy": "priority"}
    app = fleet.write(
        tasks=TASKS + NOTES, broker_transport_options=options, worker_prefetch_multiplier=1
    )
    worker = fleet.start("-c", "1")
    leader_of([worker])
    for _ in range(WAITING):
        app.ordinary.delay()
    app.first.delay()
    fleet.store.set("all are there", 1)
    wait_until(
        lambda: b"leader-only" in fleet.store.lrange("order", 0, -1), 60, "the leader-only call"
    )
    before = fleet.store.lrange("order", 0, -1).index(b"leader-only")
    assert before < WAITING / 2
    fleet.close()
