"""Each kind of message and of broker: which way its runs go, and that they arrive.

What is sent comes out of kombu's own consumers, as a worker's would.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu.transport
import kombu.transport.redis
import pytest
from celery import Celery
from kombu.entity import Exchange, Queue

from tests.integration.beat.driven_leaders import (
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
)
from tests.integration.publishing.collected import needs_batches
from tests.support.celery.services import shop
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.sentinels import SentinelGroup

pytestmark = needs_batches

MakeLeaders = Callable[..., DrivenLeaders]


@pytest.fixture
def make_stage(quick_server: Server, key: str) -> Iterator[MakeLeaders]:
    made: list[DrivenLeaders] = []

    def make(server: Server = quick_server) -> DrivenLeaders:
        made.append(DrivenLeaders(server, key))
        return made[-1]

    yield make
    for stage in made:
        for close in stage.closing:
            close()


class Consumers:
    """Reads queues as workers do: declared and bound before anything is sent."""

    def __init__(self, app: Celery, queues: list[Queue]) -> None:
        # A connection for each, as of workers of their own.
        self._connections = [app.connection_for_read() for _ in queues]
        self.headers: list[dict[str, Any]] = []
        self._consumers = []
        for connection, queue in zip(self._connections, queues, strict=True):
            consumer = connection.channel().Consumer(queue, callbacks=[self._take], accept=["json"])
            consumer.consume()
            self._consumers.append(consumer)
        self._drain()  # which subscribes to what is fanned out

    def _take(self, body: Any, message: Any) -> None:
        self.headers.append(message.headers)
        message.ack()

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        def there() -> bool:
            self._drain()
            return len(self.headers) >= count

        wait_until(there, 30)
        return self.headers

    def _drain(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.05)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def send_one(
    stage: DrivenLeaders,
    app: Celery,
    queues: list[Queue],
    copies: int = 1,
) -> tuple[str, list[dict[str, Any]]]:
    """Let a leader dispatch the one entry that is due; return its way, and what arrived."""
    consumers = Consumers(app, queues)
    try:
        leader = stage.leader(app)
        wait_until(lambda: bool(leader.run()) or stage.runs()["e"].split()[1] == b"1", 30)
        wait_until(lambda: (leader.run(), stage.runs()["e"].split()[1] == b"1")[1], 30)
        arrived = consumers.wait_for(copies)
    finally:
        consumers.close()
    assert len({headers["id"] for headers in arrived}) == 1
    assert stage.pending() == set()
    once = arrived[0]["leader_publication"].startswith("once-")
    return (TRANSACTIONAL if once else WRITE_AHEAD), arrived


FAN = Exchange("ways.fan", type="fanout")
TOPIC = Exchange("ways.topic", type="topic")


def entry(stage: DrivenLeaders, **more: Any) -> dict[str, Any]:
    return {"e": stage.entry("e", -1.0, **more)}


@pytest.mark.parametrize(
    ("size", "way"), [(1_000, TRANSACTIONAL), (90_000, TRANSACTIONAL), (140_000, WRITE_AHEAD)]
)
def test_a_message_goes_by_its_size(make_stage: MakeLeaders, key: str, size: int, way: str) -> None:
    stage = make_stage()
    app = stage.app(**entry(stage, args=("x" * size,)))
    assert send_one(stage, app, [Queue(key)])[0] == way


@pytest.mark.parametrize(
    ("queues", "copies", "way"),
    [
        (
            # kombu's patterns for Redis take the routing key as part of the channel.
            [Queue(f"ways.fan.{n}", FAN, routing_key="fan") for n in (1, 2)],
            2,
            WRITE_AHEAD,
        ),
        (
            [
                Queue("ways.two.1", TOPIC, routing_key="two.#"),
                Queue("ways.two.2", TOPIC, routing_key="two.*"),
            ],
            2,
            WRITE_AHEAD,
        ),
        ([Queue("ways.one", TOPIC, routing_key="one.#")], 1, TRANSACTIONAL),
        ([Queue("ways.expiring", expires=600.0)], 1, TRANSACTIONAL),
        ([Queue("ways.lifetime", message_ttl=600.0)], 1, TRANSACTIONAL),
    ],
    ids=["fan-out", "topic to two queues", "topic to one queue", "queue that expires", "ttl"],
)
def test_a_message_goes_by_where_it_is_routed(
    make_stage: MakeLeaders, queues: list[Queue], copies: int, way: str
) -> None:
    stage = make_stage()
    options: dict[str, Any] = {"queue": queues[0].name}
    if queues[0].exchange.type == "topic":
        options["routing_key"] = queues[0].routing_key.replace("#", "run")
    app = stage.app(**entry(stage, options=options))
    app.conf.task_queues = queues
    assert send_one(stage, app, queues, copies)[0] == way


@pytest.mark.parametrize("priority", [0, 4, 9])
def test_a_message_with_a_priority_goes_to_the_key_of_its_priority(
    make_stage: MakeLeaders, key: str, priority: int
) -> None:
    stage = make_stage()
    app = stage.app(**entry(stage, options={"priority": priority}))
    way, _ = send_one(stage, app, [Queue(key)])
    assert way == TRANSACTIONAL


def test_a_prefix_of_all_keys_is_before_the_queue_too(make_stage: MakeLeaders, key: str) -> None:
    stage = make_stage()
    settings = {"broker_transport_options": {"global_keyprefix": "ways:"}}
    app = shop(stage.broker, key, entry(stage), **settings)
    stage.prefix("ways:")
    assert send_one(stage, app, [Queue(key)])[0] == TRANSACTIONAL


def test_an_expiry_goes_with_the_message(make_stage: MakeLeaders, key: str) -> None:
    stage = make_stage()
    app = stage.app(**entry(stage, options={"expires": 600}))
    way, [headers] = send_one(stage, app, [Queue(key)])
    assert way == TRANSACTIONAL
    assert headers["expires"] is not None


class _Foreign(kombu.transport.redis.Channel):
    """Puts messages in its own way, whatever it is given to collect them with."""

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        options.pop("_publish_batch", None)
        super()._put(queue, message)


def test_a_transport_of_somebody_elses_sends_by_itself(
    make_stage: MakeLeaders, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type("Transport", (kombu.transport.redis.Transport,), {"Channel": _Foreign})
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "foreign", f"{__name__}:Transport")
    monkeypatch.setitem(kombu.transport._transport_cache, "foreign", kind)
    stage = make_stage()
    broker = stage.broker.replace("redis:", "foreign:")
    app = shop(broker, key, entry(stage), leader_url=stage.server.url)
    assert send_one(stage, app, [Queue(key)])[0] == WRITE_AHEAD


def _same(server: Server) -> str:
    return server.url


@pytest.mark.parametrize(
    ("broker", "way"),
    [
        (_same, TRANSACTIONAL),
        (lambda server: server.url.replace("127.0.0.1", "localhost"), TRANSACTIONAL),
        (lambda server: server.url.removesuffix("/0"), TRANSACTIONAL),
        (lambda server: server.url.removesuffix("/0") + "/1", WRITE_AHEAD),
        (lambda server: f"{server.url};{server.url.removesuffix('/0')}/1", WRITE_AHEAD),
    ],
    ids=["the same URL", "another name", "no number", "another database", "two URLs"],
)
def test_a_message_goes_by_what_the_broker_is(
    make_stage: MakeLeaders, key: str, broker: Callable[[Server], str], way: str
) -> None:
    stage = make_stage()
    app = shop(broker(stage.server), key, entry(stage), leader_url=stage.server.url)
    assert send_one(stage, app, [Queue(key)])[0] == way


def test_a_broker_on_a_unix_socket_may_be_the_ledgers_database(
    make_stage: MakeLeaders, key: str, start_server: Callable[..., Server]
) -> None:
    server = start_server(unix_socket=True)
    stage = make_stage(server)
    path = Path(server.unix_url.removeprefix("unix://").partition("?")[0])
    app = shop(f"redis+socket://{path}", key, entry(stage), leader_url=server.url)
    assert send_one(stage, app, [Queue(key)])[0] == TRANSACTIONAL


def test_another_server_is_another_database(
    make_stage: MakeLeaders, key: str, start_server: Callable[..., Server]
) -> None:
    stage = make_stage()
    app = shop(start_server().url, key, entry(stage), leader_url=stage.server.url)
    assert send_one(stage, app, [Queue(key)])[0] == WRITE_AHEAD


def test_behind_sentinels_broker_and_ledger_are_one_database(
    make_stage: MakeLeaders, key: str, valkey_server: Server
) -> None:
    with SentinelGroup(valkey_server.kind) as group:
        stage = make_stage(group.master)
        app = shop(
            group.url,
            key,
            entry(stage),
            broker_transport_options=group.options,
            leader_url=group.url,
            leader_options=group.options,
        )
        assert send_one(stage, app, [Queue(key)])[0] == TRANSACTIONAL


def test_what_waited_for_a_worker_is_taken_in_the_order_of_its_moments(
    make_stage: MakeLeaders, key: str
) -> None:
    stage = make_stage()
    entries = {f"e{n}": stage.entry(f"e{n}", -10.0 + n) for n in range(9, -1, -1)}
    leader = stage.leader(stage.app(**entries))
    wait_until(lambda: (leader.run(), len(stage.messages()) >= 10)[1], 30)
    names = [sent.headers["kwargsrepr"] for sent in stage.messages()]
    assert names == [f"{{'entry': 'e{n}'}}" for n in range(10)]
    assert all(sent.covers[1] < time.time() * 1e6 for sent in stage.messages())
