"""What is collected for a script is what kombu would have put into Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kombu.entity import Exchange, Queue

from celery_safe_leader._dispatch.outcomes import Collected, Sent
from celery_safe_leader._publishing import sender
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.publisher import Publisher
from celery_safe_leader._schedules.moments import SECOND_US
from tests.integration.publishing.collected import (
    LARGEST,
    build,
    collect,
    collect_one,
    lists_of,
    needs_batches,
    payload,
)
from tests.support.celery.periodic import (
    CASES,
    DUE_US,
    called_message,
    make_app,
    make_entry,
    new_queue,
    stock_send,
    yes,
)
from tests.support.celery.projects import PROJECTS
from tests.support.servers import Server

pytestmark = needs_batches

PublisherOf = Callable[[Any], Publisher]
PREFIX = {"global_keyprefix": "shop:"}
PLACES: dict[str, dict[str, Any]] = {
    "plain": {},
    "prefix": PREFIX,
    "steps": {"priority_steps": list(range(10)), "sep": ":"},
    "prefix and steps": {**PREFIX, "priority_steps": [0, 5]},
}
TOPIC = Exchange("orders", type="topic")
DIRECT = Exchange("direct-orders", type="direct")
QUEUES: dict[str, dict[str, Any]] = {
    "default": {},
    "priority 0": {"priority": 0},
    "priority 3": {"priority": 3},
    "priority 9": {"priority": 9},
    "x-expires": {"queue": Queue("short", expires=300)},
    "x-expires and priority": {"queue": Queue("short-too", expires=300), "priority": 6},
    "topic": {"queue": Queue("topical", TOPIC, routing_key="new.#"), "routing_key": "new.big"},
    "direct": {
        "queue": Queue("named", DIRECT, routing_key="r"), "exchange": DIRECT, "routing_key": "r",
    },
    "time to live": {"expires": 90.5},
    "eta": {"countdown": 60},
    "transient": {"delivery_mode": 1},
    "not ascii": {"queue": Queue("größe ✓"), "headers": {"größe": "✓"}},
    "pickle": {"serializer": "pickle", "compression": "zlib"},
}  # fmt: skip


def masked(found: bytes, nonce: str) -> bytes:
    """Return a message byte for byte, but for what kombu and we draw at random."""
    tag: str = json.loads(found)["properties"]["delivery_tag"]
    assert found.count(tag.encode()) == found.count(nonce.encode()) == 1
    return found.replace(tag.encode(), b"TAG").replace(nonce.encode(), b"NONCE")


@pytest.mark.parametrize("options", QUEUES.values(), ids=QUEUES)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_key_and_payload_are_byte_for_byte_what_kombu_writes(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    place: dict[str, Any],
    options: dict[str, Any],
) -> None:
    app = make_app(broker_server.url, new_queue(), broker_transport_options=place)
    publisher, message = publisher_of(app), build(app, options=options)
    monkeypatch.setattr(sender, "time", SimpleNamespace(time=lambda: DUE_US / SECOND_US))
    found = collect_one(publisher, message)
    assert lists_of(broker_server) == {}
    sent: Any = publisher.publish([message], yes)[0]
    assert isinstance(sent, Sent)
    ((key, (written,)),) = lists_of(broker_server).items()
    assert found.push.queue == key
    assert masked(found.push.message, found.nonce) == masked(written, sent.nonce)
    assert found.nonce.startswith("once-")
    assert not sent.nonce.startswith("once-")


def test_a_key_has_the_prefix_of_the_brokers_client(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, "q", broker_transport_options=PREFIX)
    queues: list[Any] = ["q", Queue("short", expires=300)]
    found = [
        collect_one(publisher_of(app), build(app, options={"queue": each, "priority": 3})).push
        for each in queues
    ]
    keys = [push.queue for push in found] + [key for push in found for key, _ in push.expiries]
    unprefixed = [key for key in keys if not key.startswith(b"shop:")]
    assert unprefixed == [], "a key without the broker's prefix"


@pytest.mark.parametrize("own", [False, True], ids=["ours", "celerys"])
@pytest.mark.parametrize("case", [*CASES, *PROJECTS], ids=str)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_every_kind_of_entry_comes_out_as_stock_beat_sends_it(
    broker_server: Server, publisher_of: PublisherOf, place: dict[str, Any], case: Any, own: bool
) -> None:
    with case.app(broker_server.url, broker_transport_options=place) as app:
        queue = app.conf.task_default_queue
        stock_send(app, case, queue, "the-id")
        ((key, (written,)),) = lists_of(broker_server).items()
        entry, publisher = make_entry(app, case, queue), publisher_of(app)
        builder = Builder(app)
        built: Any = None
        for _ in range(6):  # composed, by its template, and twice in an envelope
            if not own and not case.call:
                built = builder.build(entry, task_id="the-id", headers={}, due_us=DUE_US)
            elif built is None:
                built = called_message(publisher, entry, "the-id")
            found = collect_one(publisher, built)
            assert found.push.queue == key
            assert payload(found.push.message) == payload(written)


def test_a_queue_that_expires_does_so_later_under_each_of_its_keys(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue(), broker_transport_options=PREFIX)
    options = {"queue": Queue("short", expires=300), "priority": 3}
    found = collect_one(publisher_of(app), build(app, options=options)).push
    assert found.queue == b"shop:short\x06\x163"
    keys = [b"shop:short", *(b"shop:short\x06\x16%d" % step for step in (3, 6, 9))]
    assert found.expiries == tuple((key, 300_000) for key in keys)


def test_each_attempt_is_collected_anew(broker_server: Server, publisher_of: PublisherOf) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher, message = publisher_of(app), build(app)
    found: list[Collected] = collect(publisher, message, message) + collect(publisher, message)
    payloads = [payload(each.push.message) for each in found]
    assert payloads[0] == payloads[1] == payloads[2]
    tags = {json.loads(each.push.message)["properties"]["delivery_tag"] for each in found}
    assert len(tags) == len({each.nonce for each in found}) == 3
    assert "leader_publication" not in message.headers
    assert isinstance(publisher.publish([message], yes)[0], Sent)
    ((_, (written,)),) = lists_of(broker_server).items()
    assert payload(written) == payloads[0]


def test_the_header_says_once_and_names_the_nonce(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue())
    found = collect_one(publisher_of(app), build(app))
    assert json.loads(found.push.message)["headers"]["leader_publication"] == found.nonce
    assert len(found.nonce) == len("once-") + 32


def test_time_to_live_counts_from_the_moment_given(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue())
    message = build(app, options={"expires": 60})
    moments = [DUE_US, DUE_US + 15 * SECOND_US, DUE_US + 70 * SECOND_US]
    found: list[Any] = publisher_of(app).collect([message] * 3, moments)
    lives = [json.loads(each.push.message)["properties"]["expiration"] for each in found]
    assert lives == ["60000", "45000", "0"]


@pytest.mark.parametrize("over", [0, 1])
def test_a_message_of_exactly_the_largest_size_is_plain(
    broker_server: Server, publisher_of: PublisherOf, over: int
) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher = publisher_of(app)
    size = len(collect_one(publisher, build(app, options={"headers": {"x": ""}})).push.message)
    padding = "x" * (LARGEST - size + over)
    (found,) = collect(publisher, build(app, options={"headers": {"x": padding}}))
    assert isinstance(found, Collected) is (over == 0)
    if over:
        assert found.reason == f"it has {LARGEST + 1} bytes, and a script takes {LARGEST}"


def test_collecting_writes_no_message_and_leaves_nothing_behind_on_the_channel(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue())
    publisher = publisher_of(app)
    collect(publisher, *(build(app, number) for number in range(100)))
    assert lists_of(broker_server) == {}
    batch = [build(app, number) for number in range(3)]
    assert [type(one) for one in publisher.publish(batch, yes)] == [Sent] * 3
    assert len(lists_of(broker_server)[app.conf.task_default_queue.encode()]) == 3
