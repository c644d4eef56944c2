"""The guard before the strategies of a real consumer: an upgrade of Celery must not pass it by."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader._worker.dedup.strategies import FilteredStrategies
from tests.unit.worker.consumers import make_consumer


class Guard:
    """Drops what its test says."""

    header = "leader_publication"

    def __init__(self, *, drops: bool) -> None:
        self._drops = drops
        self.seen: list[tuple[Any, Any, Any]] = []

    def drops(self, message: Any, body: Any, ack: Any) -> bool:
        self.seen.append((message, body, ack))
        return self._drops


def make_app() -> Celery:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.worker_disable_rate_limits = True

    @app.task(name="shop.work", shared=False)
    def work() -> None: ...

    app.finalize()
    return app


class Message:
    """A message of protocol 2, as far as a consumer looks at it before a request exists."""

    def __init__(self, **headers: Any) -> None:
        self.headers = {"task": "shop.work", "id": "run-1", **headers}
        self.ack_log_error = self.reject_log_error = lambda *args: None


def test_a_consumer_s_strategies_are_guarded_and_its_handler_uses_them() -> None:
    consumer = make_consumer(make_app())
    guard = Guard(drops=True)
    strategies = consumer.strategies = FilteredStrategies(guard)
    consumer.update_strategies()
    strategies.check(consumer)
    assert set(strategies) == set(consumer.app.tasks)
    handle = consumer.create_task_handler()
    message = Message(leader_publication="second")
    handle(message)
    ((seen, body, ack),) = guard.seen
    assert seen is message
    assert body is None
    assert callable(ack)
    consumer.update_strategies()
    strategies.check(consumer)
    handle(message)
    assert len(guard.seen) == 2


def called_with(drops: bool, **headers: Any) -> tuple[Guard, list[tuple[Any, ...]]]:
    guard, called = Guard(drops=drops), []
    strategies = FilteredStrategies(guard)
    strategies["shop.work"] = lambda *given: called.append(given)
    strategies["shop.work"](Message(**headers), "body", "ack", "reject", "callbacks")
    return guard, called


def test_a_message_without_the_header_goes_straight_to_its_strategy() -> None:
    guard, called = called_with(True)
    assert guard.seen == []
    assert [given[1:] for given in called] == [("body", "ack", "reject", "callbacks")]


def test_a_message_that_is_not_dropped_goes_on_unchanged() -> None:
    guard, called = called_with(False, leader_publication="first")
    assert len(guard.seen) == 1
    assert [given[1:] for given in called] == [("body", "ack", "reject", "callbacks")]


def test_a_dropped_message_goes_no_further() -> None:
    _, called = called_with(True, leader_publication="second")
    assert called == []


@pytest.mark.parametrize("how", ["replaced", "empty", "bypassed"])
def test_strategies_that_pass_the_guard_by_are_refused(how: str) -> None:
    consumer = make_consumer(make_app())
    strategies = consumer.strategies = FilteredStrategies(Guard(drops=False))
    if how != "empty":
        consumer.update_strategies()
    if how == "replaced":
        consumer.strategies = dict(strategies)
    if how == "bypassed":
        strategies.update(more=lambda *given: None)
    with pytest.raises(ImproperlyConfigured, match="does not take the strategies of its tasks"):
        strategies.check(consumer)


def test_other_messages_cost_one_call_more() -> None:
    strategies = FilteredStrategies(Guard(drops=False))
    strategies["shop.work"] = plain = lambda message, body, ack, reject, callbacks: None
    guarded, message = strategies["shop.work"], Message()

    def calls(handler: Any) -> int:
        found: list[str] = []
        sys.setprofile(lambda frame, event, _: found.append(event))
        try:
            handler(message, None, None, None, None)
        finally:
            sys.setprofile(None)
        return sum(event in ("call", "c_call") for event in found)

    assert calls(guarded) == calls(plain) + 1
