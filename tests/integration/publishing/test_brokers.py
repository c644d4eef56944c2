"""What arrives at a real broker: Valkey, Redis, RabbitMQ."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import NotSent, Sent
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.publisher import Publisher
from tests.support.celery.periodic import (
    CASES,
    DUE_US,
    assert_same,
    called_message,
    make_app,
    make_entry,
    new_queue,
    received,
    stock_send,
    yes,
)
from tests.support.servers import installed_kinds
from tests.support.servers.rabbitmq import rabbitmq_urls


@pytest.fixture(params=[*installed_kinds(), *rabbitmq_urls()], ids=lambda kind: kind.split(":")[0])
def broker(request: pytest.FixtureRequest, start_server: Callable[..., Any]) -> str:
    """The URL of a broker."""
    return request.param if "://" in request.param else start_server(request.param).url


@pytest.fixture
def app(broker: str) -> Iterator[Any]:
    queue = new_queue()
    app = make_app(broker, queue)
    yield app
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        channel.queue_delete(queue)
        if broker.startswith("amqp"):
            for exchange in (queue, f"{queue}-topic"):
                channel.exchange_delete(exchange)
    app.close()


@pytest.fixture
def publisher(app: Any) -> Iterator[Publisher]:
    publisher = Publisher(app)
    yield publisher
    publisher.close()


def build(app: Any, number: int, **fields: Any) -> Any:
    given = {"name": f"entry-{number}", "task": "tests.plain", "schedule": 1, "args": (number, 0)}
    entry = ScheduleEntry(**{**given, **fields}, app=app)
    headers = {"leader_occurrence": f"id-{number}"}
    return Builder(app).build(entry, task_id=f"id-{number}", headers=headers, due_us=DUE_US)


def called(app: Any, publisher: Publisher, number: int, **fields: Any) -> CalledMessage:
    given = {"name": f"entry-{number}", "task": "tests.plain", "schedule": 1, "args": (number, 0)}
    entry = ScheduleEntry(**{**given, **fields}, app=app)
    return called_message(publisher, entry, f"id-{number}")


def ids(messages: list[dict[str, Any]]) -> list[str]:
    return [message["headers"]["id"] for message in messages]


@pytest.mark.parametrize("own", [False, True], ids=["ours", "celerys"])
def test_batch_of_all_kinds_of_entries_arrives_as_stock_beat_sends_it(
    app: Any, publisher: Publisher, own: bool
) -> None:
    queue, builder = app.conf.task_default_queue, Builder(app)
    cases = [case for case in CASES if not case.conf]
    assert len(cases) > 35
    names = [case.name for case in cases]
    for case in cases:
        stock_send(app, case, queue, case.name)
    stock = received(app, queue)
    assert sorted(ids(stock)) == sorted(names)

    built: list[Any] = []
    for case in cases:
        entry = make_entry(app, case, queue)
        if own or builder.making(entry).is_called:
            built.append(called_message(publisher, entry, case.name))
        else:
            built.append(builder.build(entry, task_id=case.name, headers={}, due_us=DUE_US))
    assert len({type(one) for one in built}) == (1 if own else 2)
    outcomes: list[Any] = publisher.publish(built, yes)
    ours = received(app, queue)
    nonces = {
        message["headers"]["id"]: message["headers"].pop("leader_publication") for message in ours
    }
    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    assert nonces == {name: outcome[0] for name, outcome in zip(names, outcomes, strict=True)}
    for expected, message in zip(stock, ours, strict=True):
        for name in ("election", "occurrence", "token", "covers"):
            message["headers"].pop(f"leader_{name}", None)
        assert_same(message, expected)


def test_messages_arrive_in_order_each_with_a_nonce_of_its_own(
    app: Any, publisher: Publisher
) -> None:
    outcomes = publisher.publish([build(app, number) for number in range(250)], yes)
    assert all(isinstance(outcome, Sent) for outcome in outcomes)
    messages = received(app, app.conf.task_default_queue)
    assert ids(messages) == [f"id-{number}" for number in range(250)]
    nonces = [message["headers"]["leader_publication"] for message in messages]
    assert len(set(nonces)) == 250
    assert nonces == [getattr(outcome, "nonce", None) for outcome in outcomes]


def test_second_attempt_at_one_message_has_another_nonce(app: Any, publisher: Publisher) -> None:
    message = build(app, 1)
    first, second = publisher.publish([message], yes)[0], publisher.publish([message], yes)[0]
    assert isinstance(first, Sent)
    assert isinstance(second, Sent)
    assert first.nonce != second.nonce
    assert len(received(app, app.conf.task_default_queue)) == 2
    assert "leader_publication" not in message.headers


@pytest.mark.parametrize("together", [True, False])
def test_nothing_is_written_once_the_leadership_has_ended(app: Any, together: bool) -> None:
    answers = iter([True, True, False])
    publisher = Publisher(app, batch_size=10 if together else 1)
    batch = [build(app, number) for number in range(40)]
    outcomes = publisher.publish(batch, lambda: next(answers))
    publisher.close()
    sent = ids(received(app, app.conf.task_default_queue))
    redis = not app.conf.broker_url.startswith("amqp")
    batched = together and redis and hasattr(Producer, "batch")
    assert len(sent) == (20 if batched else 2)
    assert sent == [f"id-{number}" for number in range(len(sent))]
    assert [type(outcome) for outcome in outcomes] == [
        *[Sent] * len(sent),
        *[NotSent] * (40 - len(sent)),
    ]


def test_message_of_celerys_is_not_written_once_the_leadership_has_ended(
    app: Any, publisher: Publisher
) -> None:
    message = called(app, publisher, 1, task="tests.wrapping")
    assert publisher.publish([message], lambda: False) == [NotSent()]
    assert not received(app, app.conf.task_default_queue)


def test_messages_of_one_run_arrive_in_order_or_are_sent_again_together(
    app: Any, publisher: Publisher
) -> None:
    several = tuple(called(app, publisher, number) for number in range(3))
    answers = iter([True, True, False])
    assert publisher.publish([several], lambda: next(answers)) == [NotSent()]
    assert ids(received(app, app.conf.task_default_queue)) == ["id-0", "id-1"]
    assert isinstance(publisher.publish([several], yes)[0], Sent)
    assert ids(received(app, app.conf.task_default_queue)) == ["id-0", "id-1", "id-2"]


def test_other_queues_and_exchanges_in_one_batch(app: Any, publisher: Publisher) -> None:
    name = app.conf.task_default_queue
    others = [new_queue() for _ in range(3)]
    topic = Exchange(f"{name}-topic", type="topic")
    options: list[dict[str, Any]] = [
        {"queue": others[0]},
        {"queue": Queue(others[1], topic, routing_key="orders.#"), "routing_key": "orders.new"},
        {"queue": Queue(others[2], topic, routing_key="*.new"), "routing_key": "orders.new"},
        {},
    ]
    # The queues of a topic exchange have to be there before a message for both comes.
    publisher.publish([build(app, 10 + n, options=o) for n, o in enumerate(options)], yes)
    for queue in (*others, name):
        received(app, queue)
    publisher.publish([build(app, n, options=o) for n, o in enumerate(options)], yes)
    arrived = [ids(received(app, queue)) for queue in (*others, name)]
    with app.connection_for_write() as connection:
        for queue in others:
            connection.default_channel.queue_delete(queue)
    assert arrived == [["id-0"], ["id-1", "id-2"], ["id-1", "id-2"], ["id-3"]]


def test_publisher_survives_a_fork(app: Any, publisher: Publisher) -> None:
    assert isinstance(publisher.publish([build(app, 1)], yes)[0], Sent)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if isinstance(publisher.publish([build(app, 2)], yes)[0], Sent) else 2
            publisher.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(publisher.publish([build(app, 3)], yes)[0], Sent)
    assert ids(received(app, app.conf.task_default_queue)) == ["id-1", "id-2", "id-3"]


def test_idle_connection_is_replaced_before_it_is_used(
    app: Any, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.publish([build(app, 1)], yes)[0]
    used = publisher.session._producer
    assert isinstance(publisher.publish([build(app, 2)], yes)[0], Sent)
    assert publisher.session._producer is used
    monkeypatch.setattr("celery_safe_leader._publishing.broker_session._IDLE", -1.0)
    assert isinstance(publisher.publish([build(app, 3)], yes)[0], Sent)
    assert publisher.session._producer is not used


def test_event_task_sent_is_published_for_each_message(broker: str, app: Any) -> None:
    app.conf.task_send_sent_event = True
    app.conf.event_exchange = f"events-{uuid.uuid4().hex[:8]}"
    events: list[dict[str, Any]] = []
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        channel = connection.default_channel
        with receiver.get_consumers(partial(app.amqp.Consumer, channel), channel)[0]:
            with contextlib.suppress(TimeoutError):  # Redis subscribes with the first read
                connection.drain_events(timeout=0.2)
            publisher = Publisher(app)
            publisher.publish([build(app, 1), build(app, 2)], yes)
            publisher.close()
            while len(events) < 2:
                connection.drain_events(timeout=5)
        if broker.startswith("amqp"):
            connection.default_channel.exchange_delete(app.conf.event_exchange)
    received(app, app.conf.task_default_queue)
    assert [(event["type"], event["uuid"]) for event in events] == [
        ("task-sent", "id-1"),
        ("task-sent", "id-2"),
    ]
    assert events[0]["queue"] == app.conf.task_default_queue
