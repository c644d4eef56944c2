"""The producer that Celery's own code is given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Producer

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
