"""What being leader-only costs a task: microseconds in the pool's process, and no round trip."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.e2e.worker.stage import WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.servers import Server

LIMIT = 5e-6
"""Seconds of the processor per run."""

TASKS = """
from celery._state import _task_stack
from celery_safe_leader.tasks import current_leadership, leader_only

@app.task(name="empty")
@leader_only
def empty():
    return None

@app.task(name="measured")
@leader_only
def measured(rounds, calls):
    # As if the pool's process ran "empty" again and again, with and without the guard in turn.
    task = app.tasks["empty"]
    guarded, bare = task.run, task.run.__wrapped__
    found = []
    _task_stack.push(task)
    task.push_request(id="x", called_directly=False, is_eager=False, delivery_info={})
    try:
        for _ in range(rounds):
            times = []
            for run in (bare, guarded):
                # Of the processor, which others may need at the same time.
                begin = time.thread_time()
                for _ in range(calls):
                    run()
                times.append(time.thread_time() - begin)
            found.append((times[1] - times[0]) / calls)
    finally:
        task.pop_request()
        _task_stack.pop()
    return found
"""


def commands(server: redis.Redis) -> int:
    """Return how many commands a server has executed, those of scripts included."""
    info: Any = server.info("stats")
    return int(info["total_commands_processed"])


@pytest.mark.quiet
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_the_guard_costs_a_task_less_than_5_microseconds(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    app = fleet.write(tasks=TASKS)
    leader_of([fleet.start("-c", "1")], 25)
    found = app.measured.delay(200, 250).get(timeout=30)
    median = statistics.median(found)
    measured(f"the guard of a leader-only task: {median * 1e6:.2f} µs per run in a pool's process")
    assert 0 < median < LIMIT


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_a_leader_only_task_needs_no_round_trip_more_than_another(
    fleet: WorkerFleet, start_server: Callable[..., Server]
) -> None:
    broker = start_server("valkey")
    app = fleet.write(tasks=TASKS, broker=broker.url, result_backend=broker.url)
    with redis.Redis.from_url(broker.url) as server:
        sent = {}
        for task in (app.plain, app.empty) * 2:
            # The second time: each has declared its queue by then.
            before = commands(server)
            for _ in range(20):
                task.apply_async(ignore_result=True)
            sent[task.name] = commands(server) - before
        assert sent["empty"] == sent["plain"]
        server.flushall()
    leader_of([fleet.start("-c", "1")], 25)
    began, before = time.monotonic(), commands(fleet.store)
    for result in [app.empty.delay() for _ in range(300)]:
        result.get(timeout=30)
    busy = commands(fleet.store) - before
    pause = max(time.monotonic() - began, 0.5)
    before = commands(fleet.store)
    time.sleep(pause)
    idle = commands(fleet.store) - before
    # Renewals, whatever the tasks do.
    assert busy < idle + 100
