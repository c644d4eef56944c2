"""Workers that end, lose their broker or are told to consume: who leads and what runs meanwhile."""

from __future__ import annotations

import signal
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.support.celery.workers import Worker, elected_at, leader_of, wait_listening
from tests.support.network.proxy import Proxy
from tests.support.processes import Child, wait_until

LIMITED = """
@app.task(name="limited", soft_time_limit=0.5)
@leader_only
def limited():
    time.sleep(30)
"""

EVENTS = """
import app

with app.app.connection_for_read() as connection:
    receiver = app.app.events.Receiver(connection, handlers={
        name: lambda event: print(event["type"], event["hostname"], event["fencing_token"],
                                  event.get("reason"), flush=True)
        for name in ("leader-elected", "leader-demoted")
    })
    print("listening", flush=True)
    receiver.capture(limit=None, timeout=60, wakeup=False)
"""


def running(fleet: WorkerFleet) -> bool:
    return fleet.store.lindex("busy", 0) == b"began"


def listen(fleet: WorkerFleet) -> Child:
    """Start a process that prints the Celery events of elections."""
    folder = str(fleet.folder)
    listener = fleet.children.python(EVENTS, env={"PYTHONPATH": folder}, cwd=fleet.folder)
    listener.wait_for_line("listening", 30)
    return listener


def signalled(worker: Worker, *numbers: signal.Signals) -> float:
    """Send signals, each once the worker has heard the one before; return when the last went."""
    for number in numbers[:-1]:
        heard = len(worker.child.lines)
        worker.child.signal(number)
        worker.child.wait_for_line("Warm shutdown", 30, after=heard)
    told = time.monotonic()
    worker.child.signal(numbers[-1])
    return told


@pytest.mark.timeout(120)
@pytest.mark.parametrize("by", ["queue", pytest.param("name", marks=pytest.mark.long)])
def test_a_warm_shutdown_waits_for_leader_only_tasks(fleet: WorkerFleet, by: str) -> None:
    app = fleet.write()
    leader, standby = fleet.start_two("-c", "1")
    listener = listen(fleet)
    if by == "name":
        # It reaches the leader, since the other consumes no other queue.
        app.app.control.cancel_consumer(fleet.plain, destination=[f"{standby.name}@test"])
        standby.child.wait_for_line(f"Canceling queue {fleet.plain}")
        app.app.send_task("busy", (1.5,), queue=fleet.plain)
    else:
        app.busy.delay(1.5)
    wait_until(lambda: running(fleet), 30, "the task's beginning")
    leader.child.signal(signal.SIGTERM)
    # It led to its end, and handed over then.
    assert leader_of(fleet.workers, other_than=leader) is standby
    assert fleet.store.lrange("busy", 0, -1) == [b"began", b"ended True"]
    assert leader.child.wait(10) == 0
    demoted = listener.wait_for_line(f"leader-demoted {leader.name}@test", 30).text
    assert demoted.endswith("shutdown")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_warm_shutdown_does_not_wait_for_ever(fleet: WorkerFleet) -> None:
    app = fleet.write(leader_drain_timeout=2.0)
    leader, standby = fleet.start_two("-c", "1")
    app.busy.delay(5)
    wait_until(lambda: running(fleet), 30, "the task's beginning")
    told = signalled(leader, signal.SIGTERM)
    leader.child.wait_for_line("Leader-only tasks are still running after 2 s", 30)
    leader_of(fleet.workers, other_than=leader)
    # After the patience of 2 s, and before the task ends.
    assert 2 <= elected_at(standby) - told < 5
    assert leader.child.wait(10) == 0
    assert fleet.store.lrange("busy", 0, -1) == [b"began", b"ended False"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "how",
    [
        (signal.SIGQUIT,),
        pytest.param((signal.SIGINT, signal.SIGINT), marks=pytest.mark.long),
    ],
    ids=lambda how: "-".join(number.name for number in how),
)
def test_a_cold_shutdown_does_not_wait_for_leader_only_tasks(
    fleet: WorkerFleet, how: tuple[signal.Signals, ...]
) -> None:
    app = fleet.write()
    leader, standby = fleet.start_two("-c", "1")
    listener = listen(fleet)
    app.busy.delay(30)
    wait_until(lambda: running(fleet), 30, "the task's beginning")
    told = signalled(leader, *how)
    leader_of(fleet.workers, other_than=leader)
    assert elected_at(standby) > told
    leader.child.wait()
    assert fleet.store.lrange("busy", 0, -1) == [b"began"], "it waited for the task"
    demoted = listener.wait_for_line(f"leader-demoted {leader.name}@test", 30).text
    elected = listener.wait_for_line(f"leader-elected {standby.name}@test", 30).text
    assert int(demoted.split()[2]) < int(elected.split()[2])
    assert demoted.endswith("shutdown")


@pytest.mark.timeout(120)
def test_a_worker_whose_broker_is_away_for_a_ttl_resigns_and_comes_back(
    fleet: WorkerFleet,
) -> None:
    # Both reach Redis, for the election, but one of them not the broker.
    port = urlsplit(fleet.broker).port
    assert port is not None
    with Proxy(port) as link:
        fleet.write_only(broker=fleet.broker.replace(str(port), str(link.address[1])))
        alone = fleet.start("-c", "1")
        leader_of([alone], 30)
        app = fleet.write()
        other = fleet.start("-c", "1")
        other.child.wait_for_line("leads (takes over", 30)
        heard = len(alone.child.lines)
        link.refuse()
        link.cut()
        alone.child.wait_for_line("The broker has been unreachable for 1 s", 30, after=heard)
        assert leader_of(fleet.workers, other_than=alone) is other
        assert app.counted.delay(1).get(timeout=30) == other.pid
        link.accept()
        alone.child.wait_for_line("Standing by for", 30, after=heard)
        other.child.signal(signal.SIGTERM)
        assert leader_of(fleet.workers, other_than=other) is alone
        assert app.counted.delay(1).get(timeout=30) == alone.pid
        fleet.children.close()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_what_waits_for_its_time_on_a_worker_that_ends_runs_on_the_next_leader(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write()
    leader, standby = fleet.start_two("-c", "1")
    result = app.counted.apply_async((1,), countdown=4)
    leader.child.wait_for_line("Task counted", 30)
    leader.child.signal(signal.SIGTERM)
    assert result.get(timeout=30) == standby.pid


def queues_of(app: Any, worker: Worker) -> set[str]:
    name = f"{worker.name}@test"
    inspect = app.app.control.inspect([name], timeout=5, limit=1)
    return {queue["name"] for queue in inspect.active_queues()[name]}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
def test_nothing_that_a_worker_is_told_makes_it_consume_the_queue_of_another(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write(worker_pool_restarts=True, tasks=TASKS + LIMITED)
    leader, standby = fleet.start_two("--autoscale=2,1")
    assert fleet.queue in queues_of(app, leader)
    control = app.app.control
    wait_listening(app.app, (leader, standby))
    control.add_consumer(fleet.queue)
    control.add_consumer(f"other-{fleet.suffix}")
    control.autoscale(3, 1)
    control.pool_restart()
    for worker in (leader, standby):
        worker.child.wait_for_line("Refused to consume")
        worker.child.wait_for_line(f"Started consuming from other-{fleet.suffix}")
    assert queues_of(app, standby) == {fleet.plain, f"other-{fleet.suffix}"}
    assert queues_of(app, leader) == {fleet.plain, f"other-{fleet.suffix}", fleet.queue}
    # The children of the restarted pool see the leadership, and more of them are started.
    results = [app.counted.delay(number) for number in range(20)]
    assert {result.get(timeout=30) for result in results} == {leader.pid}
    with pytest.raises(SoftTimeLimitExceeded):
        app.limited.delay().get(timeout=10)
    control.cancel_consumer(fleet.queue)
