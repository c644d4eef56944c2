"""The leader queue behaves as other queues do: delays, and calls of tasks of another release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery import Celery

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls

RELEASE = tuple(int(part) for part in celery.__version__.split(".")[:2])

QUORUM = """
from kombu import Exchange, Queue

app.conf.task_queues = [
    Queue(name, Exchange(name, type="topic"), name, queue_arguments={"x-queue-type": "quorum"})
    for name in (app.conf.task_default_queue, app.conf.leader_queue)
]
app.conf.task_default_exchange_type = "topic"
app.conf.worker_detect_quorum_queues = True

@app.task(name="delayed", bind=True)
@leader_only
def delayed(self):
    if not self.request.retries:
        raise self.retry(countdown=1)
    return main_process()
"""


@pytest.fixture
def without_delays_left(on_rabbitmq: WorkerFleet) -> Iterator[WorkerFleet]:
    """Take Celery's queues of delayed messages away afterwards."""
    yield on_rabbitmq
    on_rabbitmq.children.close()
    with Celery(broker=RABBITMQ_URL).connection_for_write() as connection:
        for number in range(28):
            connection.default_channel.queue_delete(f"celery_delayed_{number}")
            connection.default_channel.exchange_delete(f"celery_delayed_{number}")
        connection.default_channel.exchange_delete("celery_delayed_delivery")


@pytest.mark.timeout(120)
@pytest.mark.skipif(not rabbitmq_urls() or RELEASE < (5, 5), reason="delays in RabbitMQ: 5.5")
def test_delayed_calls_and_retries_arrive_in_a_quorum_queue_on_a_topic_exchange(
    without_delays_left: WorkerFleet,
) -> None:
    fleet = without_delays_left
    app = fleet.write(tasks=TASKS + QUORUM)
    leader, standby = fleet.start_two()
    assert app.delayed.apply_async(countdown=1).get(timeout=60) == leader.pid
    for worker in (leader, standby):
        assert "Failed to bind" not in worker.child.output


@pytest.mark.timeout(120)
def test_a_call_that_only_a_newer_release_knows_waits_for_a_worker_of_it(
    fleet: WorkerFleet,
) -> None:
    fleet.write_only()
    older = fleet.start()
    leader_of([older])
    new = """
@app.task(name="new")
@leader_only
def new():
    return main_process()
"""
    app: Any = fleet.write(tasks=TASKS + new)
    newer = fleet.start()
    newer.child.wait_for_line("leads (takes over", 30)
    result = app.new.delay()
    older.child.wait_for_line("of a task that this worker does not know", 30)
    assert result.get(timeout=60) == newer.pid
    assert leader_of([newer]) is newer
