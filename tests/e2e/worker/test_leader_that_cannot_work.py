"""Workers that lead and cannot do what they were elected for: they say so, and others lead."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.e2e.worker.stage import BROKERS, TASKS, WorkerFleet
from tests.support.celery.workers import Worker, leader_of, wait_listening
from tests.support.processes import Children, wait_until
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls

needs_rabbitmq = pytest.mark.skipif(not rabbitmq_urls(), reason="no RabbitMQ answers")


@pytest.fixture
def declared_otherwise(on_rabbitmq: WorkerFleet) -> Iterator[Any]:
    """The leader queue, declared as no worker of the app does."""
    with Celery(broker=RABBITMQ_URL).connection_for_write() as connection:
        channel = connection.channel()
        channel.queue_declare(
            on_rabbitmq.queue,
            durable=True,
            auto_delete=False,
            arguments={"x-max-length": 1000},
        )
        yield channel


def answer_of(app: Any, worker: Worker) -> dict[str, Any]:
    """Return what a worker says of its election."""
    name = f"{worker.name}@test"
    answers = app.control.inspect(destination=[name], timeout=10)._request("leader") or {}
    found: dict[str, Any] = answers.get(name, {})
    return found


@needs_rabbitmq
@pytest.mark.timeout(120)
def test_a_leader_whose_queue_the_broker_refuses_says_so_and_works_on(
    on_rabbitmq: WorkerFleet, declared_otherwise: Any
) -> None:
    fleet = on_rabbitmq
    app = fleet.write()
    workers = [fleet.start(), fleet.start()]
    line = "Cannot consume leader queue"
    wait_until(lambda: all(line in w.child.output for w in workers), 60, "both to have led")
    assert "declare it in task_queues as it is" in workers[0].child.output
    # No worker is deaf: its ordinary queues are consumed on another channel.
    results = [app.plain.delay(number) for number in range(20)]
    assert [result.get(timeout=30) for result in results] == list(range(20))
    wait_listening(app.app, workers)
    error = answer_of(app.app, workers[0])["last_error"]
    assert "PRECONDITION_FAILED" in error["error"]
    command = ["celery", "-A", "app", "leader", "status", "--workers", "--no-wait", "--json"]
    env = {"PYTHONPATH": str(fleet.folder)}
    status = fleet.children.module(*command, cwd=fleet.folder, env=env)
    status.wait(30)
    (election,) = json.loads(status.output)["elections"]
    assert election["last_error"]["reason"] == "leader_queue"
    history: Any = fleet.store.xrange("{leader:shop}:worker:history")
    assert b"stood_down:leader_queue" in {fields[b"reason"] for _, fields in history}
    # A call by name is forwarded into the queue all the same: it is there. By one that never leads,
    # since whoever leads runs it.
    aside = f"aside-{fleet.suffix}"
    fleet.start("--no-leader", "-Q", aside).wait_ready()
    named = app.app.send_task("counted", (1,), queue=aside)
    wait_until(
        lambda: declared_otherwise.queue_declare(fleet.queue, passive=True).message_count == 1,
        30,
        "the forwarded message",
    )
    declared_otherwise.queue_delete(fleet.queue)
    leader = leader_of(workers, 60)
    assert app.counted.delay(2).get(timeout=30) == leader.pid
    assert named.state == "PENDING"  # it was deleted with the queue
    declared_otherwise.queue_delete(aside)


@pytest.mark.timeout(120)
def test_a_cancelled_leader_queue_is_left_to_another_worker_until_it_is_added_again(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write()
    leader, standby = fleet.start_two()
    wait_listening(app.app, [leader, standby])
    control, name = app.app.control, [f"{leader.name}@test"]
    control.cancel_consumer(fleet.queue, destination=name)
    assert leader_of([standby]) is standby
    answer = answer_of(app.app, leader)
    assert (answer["role"], answer["consumes"]) == ("takes no part", False)
    assert "cancel_consumer" in answer["last_error"]["error"]
    assert app.counted.delay(1).get(timeout=30) == standby.pid
    control.add_consumer(fleet.queue, destination=name)
    leader.child.wait_for_line("taking part in the election")
    standby.child.stop()
    assert leader_of([leader]) is leader
    assert app.counted.delay(2).get(timeout=30) == leader.pid


SOFT = """
@app.task(name="ordinary", acks_late=True)
def ordinary():
    store.rpush("ordinary", "began")
    time.sleep(300)
"""


@pytest.mark.timeout(120)
def test_a_soft_shutdown_leaves_the_lead_to_another_worker_at_once(fleet: WorkerFleet) -> None:
    app = fleet.write(tasks=TASKS + SOFT, worker_soft_shutdown_timeout=300.0)
    leader, standby = fleet.start_two()
    app.ordinary.apply_async(queue=fleet.queue)
    wait_until(lambda: fleet.store.llen("ordinary") == 1, 30, "a task of the leader's")
    leader.child.signal(signal.SIGQUIT)
    leader.child.wait_for_line("Initiating Soft Shutdown")
    assert leader_of([standby]) is standby
    assert leader.child.running  # it waits for its task still


@pytest.mark.timeout(120)
def test_a_leader_only_task_that_runs_keeps_the_lead_during_a_soft_shutdown(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write(worker_soft_shutdown_timeout=300.0, leader_drain_timeout=5.0)
    leader, standby = fleet.start_two()
    app.busy.delay(3)
    wait_until(lambda: fleet.store.llen("busy") == 1, 30, "a leader-only task")
    leader.child.signal(signal.SIGQUIT)
    wait_until(lambda: fleet.store.lrange("busy", 1, 1) == [b"ended True"], 30, "its end, leading")
    assert leader_of([standby]) is standby
    assert leader.child.running


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "fleet",
    [pytest.param(kind, marks=[pytest.mark.long] * (kind != "redis")) for kind in BROKERS],
    indirect=True,
)
def test_a_folder_for_temporary_files_that_is_cleaned_or_missing_changes_nothing(
    fleet: WorkerFleet, children: Children, tmp_path: Path
) -> None:
    app = fleet.write()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    options = ("-c", "1", "--max-tasks-per-child", "1")
    cleaned = Worker(children, tmp_path, *options, name="c", env={"TMPDIR": str(temporary)})
    leader_of([cleaned])
    for path in temporary.iterdir():
        shutil.rmtree(path)
    # Each call runs in a new process, which has to find the leadership anew.
    results = [app.counted.delay(number) for number in range(3)]
    assert [result.get(timeout=30) for result in results] == [cleaned.pid] * 3
    shutil.rmtree(temporary)
    homeless = Worker(children, tmp_path, *options, name="h", env={"TMPDIR": str(temporary)})
    homeless.child.wait_for_line("leads (takes over", 30)
    cleaned.child.kill()
    leader_of([homeless])
    assert app.counted.delay(4).get(timeout=30) == homeless.pid
