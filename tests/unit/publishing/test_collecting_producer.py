"""The producer that Celery's own code is given."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

from celery_safe_leader._publishing.messages import RelativeTimes
from celery_safe_leader._publishing.own_way.called_message import CalledMessage
from celery_safe_leader._publishing.own_way.collecting_producer import (
    Collection,
    make_collecting_producer,
)


@pytest.fixture
def producer() -> Iterator[Any]:
    with Connection("memory://") as connection:
        made = make_collecting_producer(Producer, connection.channel())
        made.collection = Collection("entry", "occurrence", {}, 5.0, ())
        yield made


def _publish(producer: Any, *declare: Any) -> None:
    body = {"id": "one", "task": "work"}
    producer.publish(body, routing_key="work", serializer="json", declare=list(declare))


def test_a_queue_is_bound_once_for_all_messages(producer: Any) -> None:
    queue = Queue("work", Exchange(""), routing_key="work")
    with mock.patch.object(Queue, "bind", autospec=True, side_effect=Queue.bind) as bind:
        for _ in range(3):
            _publish(producer, queue)
    assert [call.args[0] for call in bind.call_args_list] == [queue]
    assert hash(queue) in producer.channel.connection.client.declared_entities
    assert not queue.is_bound
    assert all(each.declare[0] is queue for each in producer.collection.messages)


def test_another_queue_of_the_same_name_is_bound_anew(producer: Any) -> None:
    before = Queue("work", Exchange(""), routing_key="work")
    after = Queue("work", Exchange(""), routing_key="work", max_priority=9)
    with mock.patch.object(Queue, "bind", autospec=True, side_effect=Queue.bind) as bind:
        _publish(producer, before)
        _publish(producer, after)
    assert [call.args[0].max_priority for call in bind.call_args_list] == [None, 9]


def test_a_queue_without_a_name_gets_one_and_a_class_of_its_own_is_asked_each_time(
    producer: Any,
) -> None:
    class Own(Queue):
        bound = 0

        def bind(self, channel: Any) -> Any:
            self.bound += 1
            return super().bind(channel)

    nameless, own = Queue("", Exchange(""), exclusive=True), Own("own", Exchange(""))
    _publish(producer, nameless, own)
    _publish(producer, own)
    assert nameless.name
    assert own.bound == 2


def _kept(body: Any, headers: dict[str, Any], **options: Any) -> CalledMessage:
    """Return what is kept of a message whose entry has a countdown of 5 s, and expires after 60.

    Numbers among its times are seconds from now.
    """
    with Connection("memory://") as connection:
        producer = make_collecting_producer(Producer, connection.channel())
        times = RelativeTimes(5, 60, 0, timezone.utc)
        collection = producer.collection = Collection("entry", "one", {}, 5.0, (), times=times)
        for fields in (body or {}, headers):
            for name in ("eta", "expires"):
                if isinstance(fields.get(name), int):
                    when = datetime.now(timezone.utc) + timedelta(seconds=fields[name])
                    fields[name] = when.isoformat()
        producer.publish(body, routing_key="work", serializer="json", headers=headers, **options)
        event = {"type": "task-sent", **{name: headers.get(name) for name in ("eta", "expires")}}
        producer.publish(event, routing_key="task.sent", serializer="json")
    message: CalledMessage = collection.messages[0]
    return message


def _late(message: CalledMessage) -> int:
    return round((message.given_at + 100) * 1e6)


def _seconds_after(moment: int, text: str) -> float:
    return datetime.fromisoformat(text).timestamp() - moment / 1e6


def test_times_that_count_from_the_publication_do_so_at_each_attempt() -> None:
    fields = {"id": "one", "task": "work", "eta": 5, "expires": 60}
    for body, headers in (((), fields), (fields.copy(), {})):
        message = _kept(body, headers, expiration=60)
        before = {**message.options["headers"]}
        late = _late(message)
        counted = message.counted_from(late)
        times = [counted.options["headers"], counted.events[0].body] if headers else [counted.body]
        for each in times:
            assert _seconds_after(late, each["eta"]) == pytest.approx(5, abs=0.001)
            assert _seconds_after(late, each["expires"]) == pytest.approx(60, abs=0.001)
        assert counted.expires_us == late + 60_000_000
        assert counted.options["expiration"] == 60
        assert counted.prepared is None
        assert counted.counted_from(late) is counted
        # What is kept stays as it was given, and does for an attempt at once.
        assert message.options["headers"] == before
        assert message.body is body
        assert message.counted_from(round((message.given_at + 0.5) * 1e6)) is message
        assert message.prepared is not None


def test_a_time_that_somebody_else_has_set_stays() -> None:
    headers = {"id": "one", "task": "work", "eta": 5, "expires": 3600}
    message = _kept((), headers, expiration=3600)
    late = _late(message)
    counted = message.counted_from(late)
    assert counted.options["headers"]["expires"] == headers["expires"]
    assert counted.events[0].body["expires"] == headers["expires"]
    assert _seconds_after(late, counted.options["headers"]["eta"]) == pytest.approx(5, abs=0.001)
    assert counted.options["expiration"] == pytest.approx(3500, abs=0.001)
    for fixed in ({"eta": None, "expires": "tomorrow"}, {}):
        message = _kept((), {"id": "one", "task": "work", **fixed})
        assert message.counted_from(_late(message)) is message
