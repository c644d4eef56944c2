"""Messages of leader-only tasks at a worker that does not lead; a broker in memory, no Redis."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Exchange, Queue
from kombu.exceptions import OperationalError
from kombu.transport import memory

import celery_safe_leader
from celery_safe_leader._worker.leader_only import run_guard as guard
from celery_safe_leader._worker.leader_only.queue import brought
from celery_safe_leader.tasks import leader_only
from tests.unit.worker.consumers import make_consumer


@dataclass
class StandingAside:
    """A worker that stands aside, and the broker."""

    app: Celery
    consumer: Any
    connection: Any
    acknowledged: list[Any] = field(default_factory=list)

    @property
    def election(self) -> Any:
        return self.consumer.safe_leader

    def take(self, queue: str) -> Any:
        """Return the next message of a queue."""
        return self.connection.default_channel.basic_get(queue, no_ack=False)

    def arrive(self, message: Any) -> None:
        """Let a message arrive as Celery does, and the worker's loop turn once."""
        body = None if "task" in message.headers else message.decode()
        name = body["task"] if body else message.headers["task"]
        self.consumer.update_strategies()
        self.consumer.strategies[name](
            message, body, lambda *_: self.acknowledged.append(message), None, []
        )
        self.consumer.perform_pending_operations()


@pytest.fixture(params=[2, 1], ids=["protocol 2", "protocol 1"])
def stage(request: pytest.FixtureRequest) -> Iterator[StandingAside]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        leader_url="redis://127.0.0.1:1/0", leader_candidate=False, task_protocol=request.param
    )
    celery_safe_leader.install(app)

    @app.task(name="alone", shared=False)
    @leader_only
    def alone(x: int) -> int:
        return x

    consumer = make_consumer(app)
    with app.connection_for_read() as connection:
        yield StandingAside(app, consumer, connection)
    consumer.safe_leader.shutdown(consumer)
    memory.Transport.global_state.clear()
    for queue in memory.Channel.queues.values():
        queue.queue.clear()
    app.close()


def test_a_call_by_name_goes_into_the_leader_queue_as_it_is(stage: StandingAside) -> None:
    sent = stage.app.send_task(
        "alone",
        (1,),
        queue="celery",
        priority=3,
        compression="gzip",
        headers={"trace": "t1"},
        expiration=30.0,
        link=stage.app.signature("other", (2,), queue="x"),
    )
    message = stage.take("celery")
    stage.arrive(message)
    copy = stage.take("leader.shop")
    assert copy.headers == {**message.headers, "leader_forwards": 1}
    assert copy.decode() == message.decode()
    assert copy.content_type == message.content_type
    for name in ("correlation_id", "priority", "delivery_mode", "expiration", "reply_to"):
        assert copy.properties.get(name) == message.properties.get(name)
    assert copy.properties["correlation_id"] == sent.id
    assert copy.properties["expiration"] == "30000"
    assert stage.acknowledged == [message]


def test_it_is_acknowledged_only_after_the_copy_was_sent(
    stage: StandingAside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise stage.consumer.connection_errors[0]("gone")

    monkeypatch.setattr(stage.election.queue, "publish", fail)
    stage.app.send_task("alone", (1,), queue="celery")
    with caplog.at_level(logging.WARNING):
        stage.arrive(stage.take("celery"))
    assert stage.acknowledged == []
    assert "Could not forward alone" in caplog.text


def test_forwards_are_counted(stage: StandingAside) -> None:
    stage.app.send_task("alone", (1,), queue="celery", headers={"leader_forwards": 4})
    stage.arrive(stage.take("celery"))
    assert stage.take("leader.shop").headers["leader_forwards"] == 5


@pytest.mark.parametrize("strange", ["many", [1], -3, 10**30])
def test_a_count_that_is_none_of_ours_does_not_end_the_worker(
    stage: StandingAside, strange: object
) -> None:
    stage.app.send_task("alone", (1,), queue="celery", headers={"leader_forwards": strange})
    stage.arrive(stage.take("celery"))
    assert stage.take("leader.shop").headers["leader_forwards"] == 1


def test_a_message_of_the_leader_queue_goes_back(stage: StandingAside) -> None:
    stage.app.tasks["alone"].apply_async((1,))
    message = stage.take("leader.shop")
    stage.arrive(message)
    assert stage.acknowledged == []
    assert stage.take("leader.shop").headers == message.headers


def test_add_consumer_does_not_add_the_leader_queue(
    stage: StandingAside, caplog: pytest.LogCaptureFixture
) -> None:
    stage.consumer.add_task_queue("leader.shop")
    assert "Refused to consume leader.shop" in caplog.text
    assert "leader.shop" not in stage.app.amqp.queues.consume_from


@pytest.mark.parametrize(
    ("kind", "key", "expected"),
    [
        ("direct", "leader.shop", True),
        ("topic", "leader.shop.calls", True),
        ("direct", "celery", False),
        ("direct", None, False),
    ],
)
def test_which_messages_came_through_the_leader_queue(
    kind: str, key: str | None, expected: bool
) -> None:
    exchange: Any = Exchange
    queue: Any = Queue
    made = queue("leader.shop", exchange("e", type=kind), routing_key="leader.shop.calls")
    assert brought(made, {"routing_key": key}) is expected
    assert not brought(made, None)


def test_a_pool_process_that_cannot_forward_tells_the_arguments(
    stage: StandingAside, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task: Any = stage.app.tasks["alone"]
    stage.app.conf.broker_url = "redis://127.0.0.1:1/0"
    stage.app.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0}
    stage.app.conf.task_publish_retry = False
    request = {"id": "1", "argsrepr": "(7,)", "kwargsrepr": "{}", "args": (7,), "kwargs": {}}
    task.push_request(called_directly=False, is_eager=False, delivery_info={}, **request)
    monkeypatch.setattr(guard, "get_current_task", lambda: task)
    try:
        with pytest.raises(OperationalError):
            task.run(7)
    finally:
        task.pop_request()
    assert "Could not forward alone (1), so it fails" in caplog.text
    assert "Arguments: (7,) {}" in caplog.text


def test_calls_without_a_worker_need_no_server_at_all() -> None:
    # Nothing listens at this port, so whatever was sent would fail.
    app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_transport_options = {"max_retries": 0}
    ran = []

    @app.task(name="alone", shared=False)
    @leader_only
    def alone(x: int) -> int:
        ran.append(x)
        return x

    assert alone(1) == 1
    assert alone.apply((2,)).get() == 2
    app.conf.task_always_eager = True
    assert alone.delay(3).get() == 3
    assert ran == [1, 2, 3]
