"""The leader queue behaves as other queues do: delays, and calls of tasks of another release."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest
from celery import Celery

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.support.celery.workers import leader_of, wait_listening
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


SETTINGS: list[Any] = [
    # The setting, what it makes of a queue that is declared nowhere, and since which release.
    ("task_queue_max_priority", 5, ({"x-max-priority": 5}, "direct"), (5, 3)),
    ("task_create_missing_queue_type", "quorum", ({"x-queue-type": "quorum"}, "direct"), (5, 6)),
    ("task_create_missing_queue_exchange_type", "topic", (None, "topic"), (5, 6)),
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("first", ["sender", pytest.param("worker", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    ("setting", "value", "declared"),
    [
        pytest.param(
            *case, id=case[0], marks=pytest.mark.skipif(RELEASE < since, reason=f"since {since}")
        )
        for *case, since in SETTINGS
    ],
)
def test_a_broker_accepts_the_leader_queue_from_sender_worker_and_forwarder_whoever_is_first(
    fleet: WorkerFleet, setting: str, value: Any, declared: tuple[Any, str], first: str
) -> None:
    app = fleet.write(**{setting: value})
    # On Redis a call with a priority lies in a list of its own.
    calls = [app.counted.s(0), app.counted.s(1).set(priority=3)]
    early = [call.delay() for call in calls] * (first == "sender")
    leader = fleet.start()
    leader_of([leader])
    results = [*early, *(call.delay() for call in calls)]
    assert [result.get(timeout=30) for result in results] == [leader.pid] * len(results)
    wait_listening(app.app, [leader])
    name = f"{leader.name}@test"
    (queues,) = app.app.control.inspect(destination=[name], timeout=10).active_queues().values()
    (found,) = (queue for queue in queues if queue["name"] == fleet.queue)
    assert (found["queue_arguments"], found["exchange"]["type"]) == declared
    aside = f"aside-{fleet.suffix}"
    other = fleet.start("--no-leader", "-Q", aside)
    other.wait_ready()
    try:
        assert app.app.send_task("counted", (2,), queue=aside).get(timeout=30) == leader.pid
    finally:
        fleet.children.close()
        if fleet.broker.startswith("amqp"):
            remove(aside)
    for worker in (leader, other):
        # What RabbitMQ refuses, and Kombu for a broker that does not look.
        assert "PRECONDITION_FAILED" not in worker.child.output
        assert "Cannot redeclare exchange" not in worker.child.output


def remove(*queues: str) -> None:
    with Celery(broker=RABBITMQ_URL).connection_for_write() as connection:
        for name in queues:
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)


NOT_CONSUMED = """
OTHER, ELSEWHERE = "other-" + SUFFIX, "elsewhere-" + SUFFIX
app.conf.task_queues = [
    Queue(name, Exchange(name), name) for name in (app.conf.task_default_queue, OTHER)
]
if os.environ.get("SENDS"):
    # Before the worker's consumer is made.
    plain.apply_async(("elsewhere",), queue=ELSEWHERE)
"""


@pytest.mark.timeout(120)
def test_a_worker_consumes_neither_what_is_excluded_nor_what_it_has_only_sent_to(
    fleet: WorkerFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = fleet.write(tasks=TASKS + "from kombu import Exchange, Queue\n" + NOT_CONSUMED)
    monkeypatch.setenv("SENDS", "1")
    worker = fleet.start("-X", app.OTHER)
    leader_of([worker])
    excluded = app.plain.apply_async(("excluded",), queue=app.OTHER)
    results = [app.plain.delay(number) for number in range(10)]
    assert [result.get(timeout=30) for result in results] == list(range(10))
    assert app.counted.delay(1).get(timeout=30) == worker.pid
    with app.app.connection_for_write() as connection:
        waiting = [
            connection.default_channel.queue_declare(name, passive=True).message_count
            for name in (app.OTHER, app.ELSEWHERE)
        ]
    assert (excluded.state, waiting) == ("PENDING", [1, 1])
    fleet.children.close()
    if fleet.broker.startswith("amqp"):
        remove(app.OTHER, app.ELSEWHERE)


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
