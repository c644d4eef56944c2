"""What a script cannot publish goes by write-ahead, and what fails while it is collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue

from celery_safe_leader._dispatch.outcomes import (
    Collected,
    Failed,
    NotPlain,
    Refused,
    Sent,
    Uncertain,
)
from celery_safe_leader._publishing.declarations import Declarations
from celery_safe_leader._publishing.publisher import Publisher
from celery_safe_leader._publishing.sender import give
from tests.integration.publishing.collected import (
    LARGEST,
    build,
    collect,
    collect_one,
    lists_of,
    needs_batches,
)
from tests.support.celery.periodic import DUE_US, make_app, new_queue, yes
from tests.support.network.ports import free_port
from tests.support.network.proxy import Proxy
from tests.support.servers import Server

pytestmark = needs_batches

PublisherOf = Callable[[Any], Publisher]
TOPIC = Exchange("orders", type="topic")
FANOUT = Exchange("all", type="fanout")
NOT_PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "fan-out": (
        {"options": {"queue": Queue("one-of-all", FANOUT), "exchange": "all"}},
        "kombu would send PUBLISH, not LPUSH",
    ),
    "unknown exchange": (
        {"options": {"exchange": "nobodys", "routing_key": "r"}},
        "it goes to no queue",
    ),
    "large": (
        {"args": ("x" * LARGEST, 0)},
        f"its body has {LARGEST + 82} bytes, and a script takes {LARGEST}",
    ),
}


@pytest.fixture
def app(broker_server: Server) -> Any:
    return make_app(broker_server.url, new_queue())


@pytest.mark.parametrize(("fields", "reason"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_one_push_to_one_list_is_not_plain_and_goes_by_write_ahead(
    broker_server: Server, app: Any, publisher_of: PublisherOf, fields: Any, reason: str
) -> None:
    publisher, message = publisher_of(app), build(app, 1, **fields)
    found = collect(publisher, build(app, 0), message, build(app, 2))
    assert [type(one) for one in found] == [Collected, NotPlain, Collected]
    assert found[1].reason == reason
    assert lists_of(broker_server) == {}
    assert isinstance(publisher.publish([message], yes)[0], Sent)


@pytest.mark.parametrize("expires", [None, 60.0], ids=["", "x-expires"])
def test_a_topic_is_plain_while_one_queue_is_bound_to_it(
    broker_server: Server, app: Any, publisher_of: PublisherOf, expires: float | None
) -> None:
    publisher = publisher_of(app)
    first = Queue("first", TOPIC, routing_key="new.*", expires=expires)
    second = Queue("second", TOPIC, routing_key="*.big", expires=expires)
    message = build(app, options={"queue": first, "routing_key": "new.big"})
    assert collect_one(publisher, message).push.queue == b"first"
    with app.connection_for_write() as connection:
        second.bind(connection.default_channel).declare()
    assert collect(publisher, message) == [NotPlain("it goes to more than one queue")]
    assert isinstance(publisher.publish([message], yes)[0], Sent)
    assert {key: len(value) for key, value in lists_of(broker_server).items()} == {
        b"first": 1,
        b"second": 1,
    }


def test_a_broadcast_is_not_plain(app: Any, publisher_of: PublisherOf) -> None:
    app.conf.task_queues = [Broadcast("everybody"), Queue(app.conf.task_default_queue)]
    app.conf.task_routes = {"tests.any": {"queue": "everybody", "exchange": "everybody"}}
    message = build(app, 1, task="tests.any")
    assert message.exchange == "everybody"
    assert isinstance(collect(publisher_of(app), message)[0], NotPlain)


def test_a_message_that_cannot_be_encoded_is_refused_alone(
    app: Any, publisher_of: PublisherOf
) -> None:
    odd = build(app, 1)._replace(headers={"odd": object()})
    found = collect(publisher_of(app), build(app, 0), odd, build(app, 2))
    assert [type(one) for one in found] == [Collected, Refused, Collected]
    assert "periodic task 'entry-1' (tests.plain) cannot be sent" in str(found[1].error)


def test_what_a_message_left_that_failed_half_way_is_not_taken_for_the_next_ones(
    app: Any, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = publisher_of(app)
    assert publisher.why_not_transactional() == ""
    collector: Any = publisher.session.collector()
    basic_publish = collector._basic_publish

    def fail_after(message: Any, **options: Any) -> None:
        basic_publish(message, **options)
        if message["headers"]["id"] == "id-0":
            raise ValueError("half-way")

    monkeypatch.setattr(collector, "_basic_publish", fail_after)
    found = collect(publisher, build(app, 0), build(app, 1))
    assert [type(one) for one in found] == [Refused, Collected]
    assert b'"id": "id-1"' in found[1].push.message


def test_an_error_of_the_broker_with_one_exchange_fails_its_messages_only(
    broker_server: Server, app: Any, publisher_of: PublisherOf
) -> None:
    publisher = publisher_of(app)
    options = {"queue": Queue("first", TOPIC, routing_key="r"), "routing_key": "r"}
    collect(publisher, build(app, 0))
    number = publisher.connection_number
    broker_server.client().set("_kombu.binding.orders", "not a set")
    found = collect(publisher, build(app, 0), build(app, 1, options=options), build(app, 2))
    assert [type(one) for one in found] == [Collected, Failed, Collected]
    assert "WRONGTYPE" in str(found[1].error)
    assert found[1].reached
    assert publisher.connection_number == number


def test_without_a_broker_all_fail_and_none_is_to_blame(publisher_of: PublisherOf) -> None:
    app = make_app(f"redis://127.0.0.1:{free_port()}/0", new_queue())
    publisher = publisher_of(app)
    found = collect(publisher, build(app, 0), build(app, 1))
    assert [type(one) for one in found] == [Failed, Failed]
    assert not any(one.reached for one in found)
    with pytest.raises(Exception, match="Connection refused"):
        publisher.why_not_transactional()


def test_a_connection_lost_while_a_queue_is_declared_fails_all_that_follow(
    broker_server: Server, start_proxy: Callable[[Server], Proxy], publisher_of: PublisherOf
) -> None:
    proxy = start_proxy(broker_server)
    app = make_app(proxy.url(), new_queue())
    publisher = publisher_of(app)
    collect(publisher, build(app, 0))
    number = publisher.connection_number
    proxy.refuse()
    proxy.cut()
    other = build(app, 1, options={"queue": "not-declared"})
    found = collect(publisher, build(app, 0), other, build(app, 2))
    assert [type(one) for one in found] == [Collected, Failed, Failed]
    assert found[1].reached
    proxy.accept()
    assert isinstance(collect(publisher, other)[0], Collected)
    assert publisher.connection_number > number


def test_a_publisher_that_is_closed_in_the_middle_refuses_nothing(
    app: Any, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher, batch = publisher_of(app), [build(app, number) for number in range(3)]
    collect(publisher, *batch)
    ensure = Declarations.ensure

    def close_and_give(producer: Any, message: Any, *rest: Any) -> None:
        if message is batch[1]:
            publisher.close()  # as a signal handler may
        give(producer, message, *rest)

    def close_and_ensure(self: Any, channel: Any, message: Any) -> None:
        if message is batch[1]:
            publisher.close()
        ensure(publisher.session.declarations, channel, message)

    monkeypatch.setattr(Declarations, "ensure", close_and_ensure)
    assert [type(one) for one in collect(publisher, *batch)] == [Collected, Failed, Failed]
    monkeypatch.undo()
    monkeypatch.setattr("celery_safe_leader._publishing.sender.give", close_and_give)
    assert [type(one) for one in publisher.publish(batch, yes)] == [Failed] * 3
    assert [type(one) for one in publisher.publish(batch[1:2], yes)] == [Uncertain]
    monkeypatch.undo()
    assert isinstance(collect(publisher, batch[2])[0], Collected)


def test_the_event_task_sent_is_published_when_told(
    broker_server: Server, app: Any, publisher_of: PublisherOf
) -> None:
    app.conf.task_send_sent_event = True
    subscriber: Any = broker_server.client().pubsub(ignore_subscribe_messages=True)
    subscriber.psubscribe("*celeryev*")
    subscriber.get_message(timeout=5)
    publisher, message = publisher_of(app), build(app)
    found = collect_one(publisher, message)
    publisher.notify([(message, found.nonce)])
    heard = subscriber.get_message(timeout=5)
    assert heard["channel"].endswith("task.sent")
    assert lists_of(broker_server) == {}


def test_an_event_that_cannot_be_sent_costs_nothing_but_itself(
    app: Any, publisher_of: PublisherOf, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.task_send_sent_event = True
    message = build(app)
    app.conf.broker_url = app.conf.broker_write_url = f"redis://127.0.0.1:{free_port()}/0"
    publisher_of(app).notify([(message, "once-x")])
    assert "Sending the task-sent event of tests.plain (id-1) failed" in caplog.text


def test_each_message_needs_a_moment(app: Any, publisher_of: PublisherOf) -> None:
    with pytest.raises(ValueError, match="zip"):
        publisher_of(app).collect([build(app)], [DUE_US, DUE_US])
