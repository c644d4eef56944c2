"""A message that the broker's client cannot send, while something else fails as well."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis
from kombu.entity import Exchange
from kombu.entity import Queue as BoundQueue

from celery_safe_leader._publishing.declarations import Declarations
from celery_safe_leader._publishing.messages import Message
from tests.integration.beat.driven_leaders import (
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
    Leader,
)
from tests.support.celery.inbox import Inbox
from tests.support.celery.services import BeatService, shop
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls


@pytest.fixture
def proxy(quick_server: Server, start_proxy: Callable[[Server], Proxy]) -> Proxy:
    return start_proxy(quick_server)


@pytest.fixture
def stage(quick_server: Server, key: str, proxy: Proxy) -> Iterator[DrivenLeaders]:
    """Leaders whose ledger's connection goes by way of the proxy."""
    stage = DrivenLeaders(quick_server, key, WRITE_AHEAD, ledger=proxy.url())
    yield stage
    for close in stage.closing:
        close()


class Writes:
    """Stands before each write of a message; it raises what the test says."""

    def __init__(self) -> None:
        self.errors: dict[str, list[Exception]] = {"bad": [ValueError("no such thing")] * 9}

    def ensure(self, _: Declarations, channel: object, message: Message) -> None:
        if errors := self.errors.get(message.entry):
            raise errors.pop()


@pytest.fixture
def writes() -> Writes:
    return Writes()


@pytest.fixture
def leader(stage: DrivenLeaders, writes: Writes, monkeypatch: pytest.MonkeyPatch) -> Leader:
    """Runs of ``bad`` and ``good`` are due soon; what ``bad`` sends is refused."""
    bad = stage.entry("bad", 0.4)
    good = {**bad, "kwargs": {"entry": "good"}}
    leader = stage.leader(stage.app(first=stage.entry("first", -1.0), bad=bad, good=good))
    # One by one, as on AMQP.
    monkeypatch.setattr("celery_safe_leader._publishing.sender.supports_batches", lambda _: False)
    monkeypatch.setattr(Declarations, "ensure", lambda *args: writes.ensure(*args))
    wait_until(lambda: (leader.run(), stage.messages())[1])
    return leader


def assert_one_is_given_up(stage: DrivenLeaders, leader: Leader) -> None:
    def is_over() -> bool:
        leader.run()
        return stage.runs()["bad"].split()[1] == b"1" and not stage.pending()

    wait_until(is_over)
    wait_until(lambda: (leader.run(), len(stage.messages()) == 2)[1])


def test_it_is_given_up_after_its_claim_had_no_reply(
    stage: DrivenLeaders, leader: Leader, proxy: Proxy
) -> None:
    proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    proxy.heal()
    assert_one_is_given_up(stage, leader)


def test_it_is_given_up_alone_when_the_broker_fails_right_after_it(
    stage: DrivenLeaders, leader: Leader, writes: Writes
) -> None:
    writes.errors["good"] = [ConnectionResetError("gone")]
    assert_one_is_given_up(stage, leader)


@pytest.mark.parametrize("way", [TRANSACTIONAL, WRITE_AHEAD])
def test_a_queue_that_is_none_is_named_with_its_entry_and_holds_up_no_other(
    quick_server: Server, key: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    stage, queue = DrivenLeaders(quick_server, key, way), f"no list of {key}"
    with redis.Redis.from_url(stage.broker) as broker:
        broker.set(queue, "x")
        bad = stage.entry("bad", -1.0, options={"queue": queue})
        leader = stage.leader(stage.app(good=stage.entry("good", 0.1, 0.1), bad=bad))

        def failures() -> int:
            leader.run()
            runs = leader.dispatcher._rounds._unsettled._runs  # type: ignore[union-attr]
            return runs["bad"].failures if "bad" in runs else 0

        try:
            wait_until(lambda: failures() >= 5)
            count = len(stage.messages())
            wait_until(lambda: (leader.run(), len(stage.messages()) > count)[1])
            broker.delete(queue)
            wait_until(lambda: (leader.run(), broker.llen(queue) == 1)[1])
        finally:
            for close in stage.closing:
                close()
    [told] = [text for text in caplog.messages if "does not take its message" in text]
    assert told.startswith(f"Entry 'bad': queue '{queue}' does not take")
    assert caplog.text.count("The broker does not accept messages") <= 1
    assert caplog.text.count("The broker accepts messages again") <= 1


@pytest.mark.parametrize("url", rabbitmq_urls(), ids=["rabbitmq"] * len(rabbitmq_urls()))
def test_what_no_queue_is_bound_to_is_named_with_its_entry_and_holds_up_no_other(
    quick_server: Server, key: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ gives it back. Stock beat does not ask for that: its message is lost in silence."""
    caplog.set_level("INFO", "celery_safe_leader.beat")
    topic = Exchange(f"{key}-topic", type="topic")
    orders, found = (
        BoundQueue(f"{key}-{name}", topic, routing_key=f"{name}.#") for name in ("orders", "other")
    )
    good = {"task": "shop.work", "schedule": 0.1, "kwargs": {"entry": "good"}}
    options = {"queue": orders, "routing_key": "other.new"}
    bad = {**good, "schedule": 0.2, "options": options, "kwargs": {"entry": "bad"}}
    app = shop(url, key, {"good": good, "bad": bad}, leader_url=quick_server.url)

    def told() -> list[str]:
        return [text for text in caplog.messages if "does not take its message" in text]

    with app.connection_for_write() as connection:
        channel = connection.default_channel
        try:
            with Inbox(url, queue=key) as inbox, BeatService(app):
                wait_until(told)
                inbox.wait_for(len(inbox.sent("good")) + 20, entry="good")
                assert inbox.sent("bad") == []
                found(channel).declare()
                wait_until(lambda: found(channel).queue_declare(passive=True).message_count)
        finally:
            for queue in (orders, found):
                queue(channel).delete()
            topic(channel).delete()
    line = told()[0]
    where = f"exchange '{topic.name}' with routing key 'other.new'"
    assert line.startswith(f"Entry 'bad': {where} does not take its message")
    assert "NO_ROUTE" in line
    assert caplog.text.count("The broker does not accept messages") <= 1
    assert caplog.text.count("The broker accepts messages again") <= 1
