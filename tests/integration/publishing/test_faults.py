"""Brokers that are gone, cut off, silent, empty, or refuse one message."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import Failed, Sent, Uncertain
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.connection import supports_batches
from celery_safe_leader._publishing.publisher import Publisher
from tests.support.celery.periodic import DUE_US, make_app, new_queue, received, yes
from tests.support.network.ports import free_port
from tests.support.network.proxy import Proxy
from tests.support.servers import Server
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls

REPEATING = {"retry_on_timeout": True, "max_retries": 5}
"""Options that are common, and that would send a message twice."""


BATCHES = hasattr(Producer, "batch")
"""Whether this kombu can batch. Where it cannot, the outcomes are the more precise."""


def lost(count: int) -> list[type]:
    """Name the outcomes of messages with whose first write, or only one, something happens."""
    return [Uncertain] * count if BATCHES else [Uncertain] + [Failed] * (count - 1)


@pytest.fixture
def make_publisher() -> Iterator[Callable[..., tuple[Any, Publisher]]]:
    made: list[Publisher] = []

    def make(url: str, **options: Any) -> tuple[Any, Publisher]:
        app = make_app(url, new_queue(), broker_transport_options=REPEATING)
        made.append(Publisher(app, **options))
        return app, made[-1]

    yield make
    for publisher in made:
        publisher.close()


def build(app: Any, number: int, **options: Any) -> Any:
    entry = ScheduleEntry(
        name=f"entry-{number}", task="tests.plain", schedule=1, args=(number, 0), options=options,
        app=app,
    )  # fmt: skip
    return Builder(app).build(entry, task_id=f"id-{number}", headers={}, due_us=DUE_US)


def arrived(server: Server, app: Any, queue: str = "") -> list[tuple[str, str]]:
    """Take what is in a queue, not by way of a proxy: task ids and nonces."""
    direct = make_app(server.url, app.conf.task_default_queue)
    return [
        (message["headers"]["id"], message["headers"]["leader_publication"])
        for message in received(direct, queue or app.conf.task_default_queue)
    ]


# Few enough for one packet: of a longer request the server may not have read all.
@pytest.mark.parametrize("count", [1, 3])
def test_connection_cut_between_write_and_reply_leaves_one_copy_and_says_uncertain(
    server: Server, proxy: Proxy, make_publisher: Any, count: int
) -> None:
    app, publisher = make_publisher(proxy.url())
    publisher.publish([build(app, 90)], yes)
    assert len(arrived(server, app)) == 1
    cut = proxy.cut_after_request(b"LPUSH")
    batch = [build(app, number) for number in range(count)]
    first = publisher.publish(batch, yes)
    assert cut.is_set()
    assert [type(outcome) for outcome in first] == lost(count)
    second = publisher.publish(batch, yes)
    assert [type(outcome) for outcome in second] == [Sent] * count
    expected = [
        (f"id-{number}", outcome.nonce)
        for attempt in (first, second)
        for number, outcome in enumerate(attempt)
        if not isinstance(outcome, Failed)
    ]
    assert arrived(server, app) == expected


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note each pause of kombu and redis-py, which come before a second attempt."""
    found: list[float] = []
    sleep = time.sleep

    def noted(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            found.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", noted)
    for module in ("kombu.utils.functional", "redis.retry", "kombu.connection"):
        if hasattr(sys.modules.get(module), "sleep"):
            monkeypatch.setattr(f"{module}.sleep", noted)
    return found


def test_broker_that_is_down_fails_at_once_and_works_when_it_is_back(
    server: Server, make_publisher: Any, pauses: list[float]
) -> None:
    app, publisher = make_publisher(server.url)
    batch = [build(app, number) for number in range(150)]
    server.kill()
    for _ in range(2):
        pauses.clear()
        outcomes = publisher.publish(batch, yes)
        # kombu's retries, which the options ask for, would come after pauses.
        assert pauses == []
        assert [type(outcome) for outcome in outcomes] == [Failed] * 150
    assert "refused" in str(outcomes[0].error)
    server.start()
    assert [type(outcome) for outcome in publisher.publish(batch, yes)] == [Sent] * 150
    assert [task_id for task_id, _ in arrived(server, app)] == [f"id-{n}" for n in range(150)]


def test_broker_that_ends_between_two_batches_loses_nothing_unnoticed(
    server: Server, make_publisher: Any
) -> None:
    app, publisher = make_publisher(server.url)
    batch = [build(app, number) for number in range(3)]
    publisher.publish(batch, yes)
    server.restart_empty()
    outcomes = publisher.publish(batch, yes)
    if not all(isinstance(outcome, Sent) for outcome in outcomes):
        assert {type(outcome) for outcome in outcomes} <= {Uncertain, Failed}
        outcomes = publisher.publish(batch, yes)
    assert arrived(server, app)[-3:] == [
        (f"id-{number}", outcome.nonce) for number, outcome in enumerate(outcomes)
    ]


@pytest.mark.parametrize("connected", [True, False])
def test_broker_that_is_silent_is_given_up_in_time(
    server: Server, make_publisher: Any, connected: bool
) -> None:
    app, publisher = make_publisher(server.url, timeout=0.5)
    if connected:
        publisher.publish([build(app, 1)], yes)
    server.pause()
    started = time.monotonic()
    # It is silent until it is told otherwise, so whatever comes back was given up.
    outcomes = publisher.publish([build(app, number) for number in range(5)], yes)
    assert time.monotonic() - started > 0.4
    expected = lost(5) if connected else [Failed] * 5
    assert [type(outcome) for outcome in outcomes] == expected
    server.resume()


def test_rest_of_the_batches_is_not_tried_after_the_connection_broke(
    server: Server, proxy: Proxy, make_publisher: Any
) -> None:
    app, publisher = make_publisher(proxy.url(), batch_size=10)
    publisher.publish([build(app, 99)], yes)
    proxy.cut_after_request(b"LPUSH")
    outcomes = publisher.publish([build(app, number) for number in range(30)], yes)
    assert [type(outcome) for outcome in outcomes] == lost(10) + [Failed] * 20
    sent = [task_id for task_id, _ in arrived(server, app)]
    assert sent == ["id-99", *(f"id-{number}" for number in range(len(sent) - 1))]
    assert 2 <= len(sent) <= (11 if BATCHES else 2)


def test_connections_do_not_pile_up(server: Server, proxy: Proxy, make_publisher: Any) -> None:
    app, publisher = make_publisher(proxy.url())
    for number in range(10):
        publisher.publish([build(app, number), build(app, number)], yes)
        proxy.cut_after_request(b"LPUSH")
        publisher.publish([build(app, number), build(app, number)], yes)
    assert proxy.connections <= 1
    publisher.close()
    publisher.close()
    assert proxy.connections == 0


def topic_queue(app: Any) -> Queue:
    name = app.conf.task_default_queue
    return Queue(f"{name}-t", Exchange(f"{name}-topic", type="topic"), routing_key="orders.#")


@pytest.mark.parametrize("loss", ["flushall", "bindings"])
@pytest.mark.parametrize("together", [True, False])
def test_queue_on_a_topic_exchange_is_bound_again_after_loss_of_data(
    server: Server, make_publisher: Any, loss: str, together: bool
) -> None:
    app, publisher = make_publisher(server.url, batch_size=10 if together else 1)
    queue = topic_queue(app)
    options = {"queue": queue, "routing_key": "orders.new"}
    batch = [build(app, 1, **options), build(app, 2, **options), build(app, 3)]
    publisher.publish(batch, yes)
    client = server.client()
    if loss == "flushall":
        client.flushall()
    else:
        assert client.delete(*client.keys("_kombu.binding.*")) == 2
        arrived(server, app)
        client.delete(queue.name)
    outcomes = publisher.publish(batch, yes)
    assert [task_id for task_id, _ in arrived(server, app)] == ["id-3"]
    app.conf.task_queues = None
    direct = make_app(server.url, app.conf.task_default_queue)
    assert [m["headers"]["leader_publication"] for m in received(direct, queue.name)] == [
        outcome.nonce for outcome in outcomes[:2]
    ]


def test_forgotten_declarations_are_made_again(server: Server, make_publisher: Any) -> None:
    app, publisher = make_publisher(server.url)
    publisher.publish([build(app, 1)], yes)
    client = server.client()
    client.flushall()
    publisher.publish([build(app, 1)], yes)
    assert not client.keys("_kombu.binding.*")
    publisher.forget_declarations()
    publisher.publish([build(app, 1)], yes)
    assert client.keys("_kombu.binding.*")


def test_message_that_redis_refuses_does_not_keep_back_the_others_one_by_one(
    server: Server, make_publisher: Any
) -> None:
    app, publisher = make_publisher(server.url)
    broken = f"{app.conf.task_default_queue}-broken"
    batch = [build(app, 0), build(app, 1, queue=broken), build(app, 2)]
    publisher.publish(batch, yes)
    server.client().delete(broken)
    server.client().set(broken, "not a list")
    together = publisher.publish(batch, yes)
    # The broker's answers to the others are lost with the error: nobody can know.
    expected = [Uncertain] * 3 if BATCHES else [Sent, Uncertain, Sent]
    assert [type(outcome) for outcome in together] == expected
    assert "WRONGTYPE" in str(together[1].error)
    assert [task_id for task_id, _ in arrived(server, app)] == ["id-0", "id-2"] * 2
    publisher._sender._batch_size = 1
    singly = publisher.publish(batch, yes)
    assert [type(outcome) for outcome in singly] == [Sent, Failed, Sent]
    assert [task_id for task_id, _ in arrived(server, app)] == ["id-0", "id-2"]


def test_redis_that_is_full_is_an_error_and_no_loss(
    start_server: Callable[..., Server], make_publisher: Any
) -> None:
    server = start_server("valkey", config={"maxmemory-policy": "noeviction"})
    app, publisher = make_publisher(server.url)
    publisher.publish([build(app, 9)], yes)
    server.client().config_set("maxmemory", "1")
    outcomes = publisher.publish([build(app, 1), build(app, 2)], yes)
    assert {type(outcome) for outcome in outcomes} <= {Uncertain, Failed}
    assert "memory" in str(outcomes[0].error)
    server.client().config_set("maxmemory", "0")
    assert [type(outcome) for outcome in publisher.publish([build(app, 1)], yes)] == [Sent]


def test_wrong_password_is_a_failure_without_the_password(
    start_server: Callable[..., Server], make_publisher: Any
) -> None:
    server = start_server("valkey", password="right-one")
    app, publisher = make_publisher(server.url.replace("right-one", "wrong-one"))
    [outcome] = publisher.publish([build(app, 1)], yes)
    assert isinstance(outcome, Failed)
    assert "wrong-one" not in f"{outcome!r} {outcome.error} {outcome.error.__cause__!r}"


def test_second_broker_of_a_list_is_used_when_the_first_is_down(
    server: Server, make_publisher: Any
) -> None:
    app, publisher = make_publisher(f"redis://127.0.0.1:{free_port()}/0;{server.url}")
    assert [type(outcome) for outcome in publisher.publish([build(app, 1)], yes)] == [Sent]
    assert len(arrived(server, app)) == 1


def test_unix_socket_whose_url_asks_for_repetition(
    start_server: Callable[..., Server], make_publisher: Any
) -> None:
    server = start_server("valkey", unix_socket=True)
    url = f"redis+socket://{server.socket_path}?virtual_host=0&retry_on_timeout=True"
    app, publisher = make_publisher(url)
    outcomes = publisher.publish([build(app, 1), build(app, 2)], yes)
    assert [type(outcome) for outcome in outcomes] == [Sent] * 2
    assert supports_batches(publisher.session._producer) is BATCHES


# RabbitMQ


@pytest.fixture(params=rabbitmq_urls(), ids=["rabbitmq"] * len(rabbitmq_urls()))
def rabbitmq(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Publisher, Proxy]]:
    """An app and a publisher that reach RabbitMQ through a proxy."""
    proxy = Proxy(5672)
    app = make_app(f"amqp://guest:guest@{proxy.host}:{proxy.port}//", new_queue())
    publisher = Publisher(app, timeout=2)
    yield app, publisher, proxy
    publisher.close()
    proxy.close()
    queue = app.conf.task_default_queue
    with make_app(RABBITMQ_URL, queue).connection_for_write() as connection:
        for name in (queue, f"{queue}-other"):
            connection.default_channel.queue_delete(name)
            connection.default_channel.exchange_delete(name)


def in_rabbitmq(app: Any) -> list[tuple[str, str]]:
    direct = make_app(RABBITMQ_URL, app.conf.task_default_queue)
    return [
        (message["headers"]["id"], message["headers"]["leader_publication"])
        for message in received(direct, app.conf.task_default_queue)
    ]


def test_rabbitmq_cut_before_its_confirmation_leaves_one_copy_and_says_uncertain(
    rabbitmq: Any,
) -> None:
    app, publisher, proxy = rabbitmq
    batch = [build(app, number) for number in range(4)]
    publisher.publish(batch[:1], yes)
    cut = proxy.cut_after_request(b"id-2")
    first = publisher.publish(batch, yes)
    assert cut.is_set()
    assert [type(outcome) for outcome in first] == [Sent, Sent, Uncertain, Failed]
    second = publisher.publish(batch[2:], yes)
    assert [type(outcome) for outcome in second] == [Sent, Sent]
    assert in_rabbitmq(app)[1:] == [
        *((f"id-{number}", first[number].nonce) for number in range(3)),
        *((f"id-{number}", second[number - 2].nonce) for number in (2, 3)),
    ]


def test_rabbitmq_that_cannot_be_reached_fails_at_once(rabbitmq: Any, pauses: list[float]) -> None:
    app, publisher, proxy = rabbitmq
    proxy.refuse()
    pauses.clear()
    [outcome] = publisher.publish([build(app, 1)], yes)
    assert pauses == []
    assert isinstance(outcome, Failed)
    proxy.accept()
    assert [type(outcome) for outcome in publisher.publish([build(app, 1)], yes)] == [Sent]


def test_rabbitmq_that_is_silent_is_given_up_in_time(rabbitmq: Any) -> None:
    app, publisher, proxy = rabbitmq
    publisher.publish([build(app, 1)], yes)
    proxy.black_hole()
    # It is silent until the end of the test, so whatever comes back was given up.
    outcomes = publisher.publish([build(app, 2), build(app, 3)], yes)
    assert [type(outcome) for outcome in outcomes] == [Uncertain, Failed]
    [outcome] = publisher.publish([build(app, 2)], yes)
    assert isinstance(outcome, Failed)


def test_queue_deleted_in_rabbitmq_is_noticed_and_declared_again(rabbitmq: Any) -> None:
    app, publisher, _ = rabbitmq
    publisher.publish([build(app, 1)], yes)
    with make_app(RABBITMQ_URL, "any").connection_for_write() as connection:
        connection.default_channel.queue_delete(app.conf.task_default_queue)
    outcomes = publisher.publish([build(app, 2), build(app, 3)], yes)
    assert [type(outcome) for outcome in outcomes] == [Failed, Sent]
    assert "NO_ROUTE" in str(outcomes[0].error)
    assert [task_id for task_id, _ in in_rabbitmq(app)] == ["id-3"]


def test_queue_that_rabbitmq_has_with_other_arguments_keeps_back_only_its_own_messages(
    rabbitmq: Any,
) -> None:
    app, publisher, _ = rabbitmq
    name = f"{app.conf.task_default_queue}-other"
    with make_app(RABBITMQ_URL, "any").connection_for_write() as connection:
        Queue(name, durable=False, auto_delete=True)(connection.default_channel).queue_declare()
    outcomes = publisher.publish([build(app, 1), build(app, 2, queue=name), build(app, 3)], yes)
    assert [type(outcome) for outcome in outcomes] == [Sent, Failed, Sent]
    assert "PRECONDITION_FAILED" in str(outcomes[1].error)
    assert [task_id for task_id, _ in in_rabbitmq(app)] == ["id-1", "id-3"]


def test_expiry_beyond_what_rabbitmq_accepts_is_left_to_the_workers(rabbitmq: Any) -> None:
    app, publisher, _ = rabbitmq
    message = build(app, 1, expires=90 * 86400)
    assert [type(outcome) for outcome in publisher.publish([message], yes)] == [Sent]
    direct = make_app(RABBITMQ_URL, app.conf.task_default_queue)
    [arrived] = received(direct, app.conf.task_default_queue)
    assert arrived["expiration"] is None
    assert arrived["headers"]["expires"] == message.headers["expires"]
