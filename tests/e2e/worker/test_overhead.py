"""What being leader-only costs a task: some calls in the pool's process, and no round trip.

How many microseconds that are is measured by ``make bench``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.e2e.worker.stage import WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.servers import Server

LIMIT = 40
"""Calls of functions per run, those of Python and those of C. Four of them let handlers such as
``on_success`` see the leadership under which their run was executed."""

TASKS = """
import sys

from celery._state import _task_stack
from celery_safe_leader.tasks import current_leadership, leader_only

@app.task(name="empty")
@leader_only
def empty():
    return None

def calls_of(run):
    found = []

    def note(frame, event, argument):
        if event == "call":
            found.append(frame.f_code.co_name)
        elif event == "c_call":
            found.append("C " + argument.__name__)

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return found[:-1]  # not the end of the profile

@app.task(name="calls")
@leader_only
def calls():
    # As if the pool's process ran "empty" again and again, with and without the guard in turn.
    task = app.tasks["empty"]
    guarded, bare = task.run, task.run.__wrapped__
    _task_stack.push(task)
    task.push_request(id="x", called_directly=False, is_eager=False, delivery_info={})
    try:
        return [[calls_of(bare), calls_of(guarded)] for _ in range(100)]
    finally:
        task.pop_request()
        _task_stack.pop()
"""


def commands(server: redis.Redis) -> int:
    """Return how many commands a server has executed, those of scripts included."""
    info: Any = server.info("stats")
    return int(info["total_commands_processed"])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_the_guard_costs_a_task_a_few_calls_of_functions_and_no_io(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    app = fleet.write(tasks=TASKS)
    leader_of([fleet.start("-c", "1")])
    found = app.calls.delay().get(timeout=60)
    assert [bare for bare, _ in found] == [["empty"]] * len(found)
    runs = sorted((guarded for _, guarded in found), key=len)
    # After a renewal one of them also takes the new lease in.
    ordinary, most = runs[len(runs) // 2], runs[-1]
    measured(
        f"the guard of a leader-only task: {len(ordinary) - 1} calls per run in a pool's process"
    )
    assert "empty" in ordinary
    assert len(ordinary) - 1 <= LIMIT, ordinary
    # The lease is read from memory that the worker shares with its children.
    names = ("open", "read", "write", "recv", "recv_into", "send", "sendall", "stat", "sleep")
    assert not {f"C {name}" for name in names} & set(most), most


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
    leader_of([fleet.start("-c", "1")])
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
