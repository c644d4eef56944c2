"""On which transports messages can be collected; on the others nothing is sent by trying."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import kombu
import kombu.transport
import kombu.transport.redis
import kombu.transport.virtual
import pytest
import redis
from kombu.connection import Connection
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import Collected, Failed, NotPlain, Sent
from celery_safe_leader._publishing.eligibility import why_not_connecting
from celery_safe_leader._publishing.publisher import Publisher
from tests.integration.publishing.collected import build, collect, lists_of, needs_batches
from tests.support.celery.periodic import make_app, new_queue, yes
from tests.support.servers import Server
from tests.support.servers.sentinels import SentinelGroup

PublisherOf = Callable[[Any], Publisher]
Channel: Any = kombu.transport.redis.Channel
HERE = __name__


class OwnPut(Channel):
    def _put(self, queue: str, message: Any, **options: Any) -> None:
        options.pop("_publish_batch", None)
        super()._put(queue, message)


class OwnPutFanout(Channel):
    def _put_fanout(self, *args: Any, **options: Any) -> None:
        super()._put_fanout(*args, **options)


class OwnBasicPublish(Channel):
    def basic_publish(self, message: Any, *args: Any, **options: Any) -> None:
        options.pop("_publish_batch", None)
        super().basic_publish(message, *args, **options)


class OwnInstancePut(Channel):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.__dict__["_put"] = functools.partial(Channel._put, self)


class Client(redis.Redis):
    """Has a prefix of its own, perhaps."""


class OwnClient(Channel):
    def _get_client(self) -> Any:
        return Client


class Retrying(Channel):
    supports_batch_publish = False


class Raising(Channel):
    def _q_for_pri(self, *args: Any) -> Any:
        raise ValueError("redis://:secret@host")


class Silent(Channel):
    """Has its own way of routing, which drops the message."""

    def _inplace_augment_message(self, *args: Any) -> None:
        raise LookupError("no route")


class Ordinary(Channel):
    """Overrides nothing that matters."""

    visibility_timeout = 5


OWN: dict[type, str] = {
    OwnPut: f"the transport's {HERE}.OwnPut has a _put of its own",
    OwnPutFanout: f"the transport's {HERE}.OwnPutFanout has a _put_fanout of its own",
    OwnBasicPublish: f"the transport's {HERE}.OwnBasicPublish has a basic_publish of its own",
    OwnInstancePut: f"the transport's {HERE}.OwnInstancePut has a _put of its own",
    OwnClient: f"the transport's {HERE}.OwnClient has a client of its own",
    Retrying: "its connection repeats commands",
    Raising: "collecting a trial message raised ValueError",
    Silent: "collecting a trial message raised LookupError",
}


@pytest.fixture
def app(broker_server: Server) -> Any:
    return make_app(broker_server.url, new_queue())


def with_channel(monkeypatch: pytest.MonkeyPatch, server: Server, channel: type) -> Any:
    """Make an app whose broker's transport has another class of channels."""
    kind = type("Transport", (kombu.transport.redis.Transport,), {"Channel": channel})
    module = f"{HERE}:{channel.__name__}Transport"
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "forked", module)
    monkeypatch.setitem(kombu.transport._transport_cache, "forked", kind)
    return make_app(server.url.replace("redis:", "forked:"), new_queue())


@needs_batches
@pytest.mark.parametrize(
    ("channel", "reason"), OWN.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_a_transport_with_its_own_way_sends_nothing_by_being_tried(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    channel: type,
    reason: str,
) -> None:
    app = with_channel(monkeypatch, broker_server, channel)
    publisher = publisher_of(app)
    message = build(app)
    assert publisher.why_not_transactional() == reason
    assert collect(publisher, message, message) == [NotPlain(reason)] * 2
    assert lists_of(broker_server) == {}
    assert "secret" not in reason
    if "raised" not in reason:
        assert isinstance(publisher.publish([message], yes)[0], Sent)
        assert len(lists_of(broker_server)) == 1


@needs_batches
def test_a_transport_that_changes_nothing_of_it_is_as_good_as_kombus(
    broker_server: Server, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = with_channel(monkeypatch, broker_server, Ordinary)
    publisher = publisher_of(app)
    assert publisher.why_not_transactional() == ""
    assert isinstance(collect(publisher, build(app))[0], Collected)


@needs_batches
@pytest.mark.parametrize("name", ["_put", "_put_fanout", "basic_publish"])
def test_a_method_that_a_tool_replaced_in_kombu_is_not_kombus(
    app: Any, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    owner = Channel if name in vars(Channel) else kombu.transport.virtual.Channel
    original = vars(owner)[name]

    @functools.wraps(original)
    def traced(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **options)

    monkeypatch.setattr(owner, name, traced)
    reason = publisher_of(app).why_not_transactional()
    assert reason == f"the transport's kombu.transport.redis.Channel has a {name} of its own"


@needs_batches
@pytest.mark.parametrize("name", ["publish", "batch", "_publish"])
def test_a_producer_with_its_own_way_is_not_used_for_it(
    broker_server: Server,
    app: Any,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    own = type("Own", (Producer,), {name: lambda self, *args, **options: None})
    monkeypatch.setattr(app.amqp, "Producer", own)
    reason = publisher_of(app).why_not_transactional()
    assert reason == f"the producer {own.__module__}.Own has a {name} of its own"


@needs_batches
def test_a_traced_publish_is_called_and_a_traced_write_is_not_kombus(
    broker_server: Server, app: Any, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []

    def trace(name: str) -> None:
        original = vars(Producer)[name]

        @functools.wraps(original)
        def wrapper(self: Any, *args: Any, **options: Any) -> Any:
            traced.append(name)
            return original(self, *args, **options)

        monkeypatch.setattr(Producer, name, wrapper)

    trace("publish")
    publisher = publisher_of(app)
    assert publisher.why_not_transactional() == ""
    assert isinstance(collect(publisher, build(app))[0], Collected)
    assert traced == ["publish"] * 2  # the trial, and the message
    trace("_publish")
    reason = publisher_of(app).why_not_transactional()
    assert reason == "something has replaced kombu's Producer._publish"
    assert lists_of(broker_server) == {}


@needs_batches
def test_with_two_broker_urls_nothing_is_collected_and_nobody_connects(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(f"{broker_server.url};redis://:secret@127.0.0.1:1/0", new_queue())
    publisher = publisher_of(app)
    assert publisher.why_not_transactional() == "there is more than one broker URL"
    assert collect(publisher, build(app)) == [NotPlain("there is more than one broker URL")]
    assert publisher.connection_number == 0
    assert isinstance(publisher.publish([build(app)], yes)[0], Sent)


@needs_batches
@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://a:1/0", ""),
        ("redis://a:1/0;redis://a:1/0", ""),
        ("rediss://a:1/0", ""),
        ("redis+socket:///a", ""),
        ("redis://a:1/0;redis://a:1/1", "there is more than one broker URL"),
        ("sentinel://a:1", ""),
        ("sentinel://a:1;sentinel://b:1;sentinel://c:1", ""),
        ("sentinel://a:1;redis://b:1", "there is more than one broker URL"),
        ("memory://", "the broker is not Redis (memory)"),
        ("amqp://a", "the broker is not Redis (py-amqp)"),
    ],
)
def test_what_the_url_tells(url: str, reason: str) -> None:
    assert why_not_connecting(Connection(url)) == reason


def test_a_kombu_that_has_no_batches_cannot_collect(
    broker_server: Server, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Producer, "batch", raising=False)
    monkeypatch.setattr(kombu, "__version__", "5.6.2")
    app = make_app(broker_server.url, new_queue())
    publisher = publisher_of(app)
    reason = "kombu 5.6.2 cannot collect messages, which takes 5.7 or later"
    assert publisher.why_not_transactional() == reason
    assert collect(publisher, build(app)) == [NotPlain(reason)]
    assert publisher.connection_number == 0


@needs_batches
def test_behind_sentinels_messages_are_collected_and_after_a_failover_on_a_new_connection(
    publisher_of: PublisherOf, valkey_server: Server
) -> None:
    with SentinelGroup(valkey_server.kind) as group:
        app = make_app(group.url, new_queue(), broker_transport_options=group.options)
        publisher = publisher_of(app)
        assert publisher.why_not_transactional() == ""
        run_id = publisher.leave_probe("probe", "one", 60)
        assert run_id == server_run_id(group.master)
        assert isinstance(collect(publisher, build(app))[0], Collected)
        number, former = publisher.connection_number, group.master
        former.kill()
        group.wait_failed_over(former)
        # redis-py sees that the old one was closed, and connects to the new master unasked.
        assert publisher.leave_probe("probe", "two", 60) == server_run_id(group.master)
        assert group.master.client().get("probe") == "two"
        assert publisher.connection_number > number
        found = collect(publisher, build(app))
        assert not isinstance(found[0], Failed)


def server_run_id(server: Server) -> str:
    info: Any = server.client().info("server")
    return str(info["run_id"])
