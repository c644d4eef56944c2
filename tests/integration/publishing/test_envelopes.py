"""Messages that fill in what kombu wrote around one like them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import kombu.transport.redis
import kombu.transport.virtual.base
import pytest
from celery.beat import ScheduleEntry
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import NotPlain
from celery_safe_leader._publishing import envelopes, publisher
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.collector import MessageCollector
from celery_safe_leader._publishing.headers import leader_headers
from celery_safe_leader._publishing.publisher import Publisher
from celery_safe_leader._publishing.sender import give
from tests.integration.publishing.collected import LARGEST, collect, needs_batches
from tests.integration.publishing.test_collected import PLACES, QUEUES
from tests.support.celery.periodic import DUE_US, make_app, new_queue
from tests.support.servers import Server

pytestmark = needs_batches

PublisherOf = Callable[[Any], Publisher]

ARGUMENTS = [
    "plain",
    "100 %s %d %%",
    'a "quoted" \\ text',
    "größe ✓ 🎈 \ud800",
    "\0body \0correlation_id",
    "line\nline\x7f\x1b",
    7,
    [1, {"a": None}],
]
BY_KOMBU = 1 + envelopes._ENOUGH + 1
"""Messages that kombu makes of all that are alike: without a template, until there are enough, and
the one with marks."""
FILLED = {
    name: options
    for name, options in QUEUES.items()
    if name not in ("topic", "direct", "time to live")
} | {"per cent": {"headers": {"rate": "100 %s, 5 %%"}}}


def draw_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is drawn at random for each message be the same as when this was called before."""
    count = iter(range(1_000))
    monkeypatch.setattr(kombu.transport.virtual.base, "uuid", lambda: f"tag-{next(count)}")
    monkeypatch.setattr(publisher, "_nonces", lambda count: [f"once-{n}" for n in range(count)])


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What kombu was given to make commands of."""
    given: list[Any] = []
    publish = MessageCollector.publish

    def note(self: MessageCollector, message: Any, **options: Any) -> Any:
        given.append(message)
        return publish(self, message, **options)

    monkeypatch.setattr(MessageCollector, "publish", note)
    return given


def build(app: Any, arguments: list[Any], options: dict[str, Any] | None = None) -> list[Any]:
    """Build the messages of entries that differ in their arguments alone."""
    builder = Builder(app)
    return [
        builder.build(
            ScheduleEntry(
                name=f"e{n}",
                task="tests.plain",
                schedule=1,
                args=(n, argument),
                options=options or {},
                app=app,
            ),
            task_id=f"id-{n}",
            headers=leader_headers("key", f"id-{n}", 7, (DUE_US, DUE_US + n)),
            due_us=DUE_US,
        )
        for n, argument in enumerate(arguments)
    ]


@pytest.mark.parametrize("options", FILLED.values(), ids=FILLED)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_each_is_byte_for_byte_what_kombu_makes(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    given: list[Any],
    place: dict[str, Any],
    options: dict[str, Any],
) -> None:
    app = make_app(broker_server.url, new_queue(), broker_transport_options=place)
    if "queue" in options:  # entries of which each has an object of its own share nothing
        app.conf.task_queues = [options["queue"]]
        options = {**options, "queue": options["queue"].name}
    messages = build(app, ["first", "second", *ARGUMENTS], options)
    ours = publisher_of(app)
    collect(ours, *messages)  # declares, and learns
    given.clear()
    draw_alike(monkeypatch)
    filled = collect(ours, *messages[2:])
    assert given == []
    monkeypatch.setattr(publisher, "writes_alike", lambda producer: False)
    draw_alike(monkeypatch)
    assert filled == collect(ours, *messages[2:])
    assert len(given) == len(ARGUMENTS)


def test_kombu_makes_a_few_of_all_that_are_alike_and_one_with_marks(
    broker_server: Server, publisher_of: PublisherOf, given: list[Any]
) -> None:
    app = make_app(broker_server.url, new_queue())
    found = collect(publisher_of(app), *build(app, list(range(50))))
    bodies = [message["body"] for message in given[-BY_KOMBU:]]
    assert len({each.push.message for each in found}) == 50
    # The first has no template yet, the last is compared; then there is the one with marks.
    assert len([each for each in found if b'"id-' in each.push.message]) == 50
    assert len(given) - _trials(given) == BY_KOMBU
    assert len(set(bodies)) == BY_KOMBU


def _trials(given: list[Any]) -> int:
    return len([message for message in given if message["content-type"] == "application/data"])


def test_for_a_few_messages_kombu_makes_each(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    given: list[Any],
) -> None:
    monkeypatch.setattr(publisher, "_MANY", 8)
    app = make_app(broker_server.url, new_queue())
    ours, messages = publisher_of(app), build(app, list(range(8)))
    collect(ours, *messages)
    given.clear()
    collect(ours, *messages[1:])
    assert len(given) == 7
    collect(ours, *messages[1:], messages[1])
    assert len(given) == 7


def test_each_connection_has_its_own(
    broker_server: Server, publisher_of: PublisherOf, given: list[Any]
) -> None:
    app = make_app(broker_server.url, new_queue())
    ours, messages = publisher_of(app), build(app, list(range(50)))
    collect(ours, *messages)
    ours.close()
    given.clear()
    collect(ours, *messages)
    assert len(given) - _trials(given) == BY_KOMBU


def test_where_more_are_unlike_than_are_kept_none_is_made_for_any(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    given: list[Any],
) -> None:
    monkeypatch.setattr(envelopes, "_MOST", 5)
    app = make_app(broker_server.url, new_queue())
    unlike = [build(app, [0, 1], {"headers": {"own": n}})[1] for n in range(7)]
    ours = publisher_of(app)
    for _ in range(10):
        collect(ours, *unlike)
    assert len(given) - _trials(given) == 10 * len(unlike)


def _wrapped(monkeypatch: pytest.MonkeyPatch, holder: Any, name: str) -> list[Any]:
    seen: list[Any] = []
    original = getattr(holder, name)

    @functools.wraps(original)
    def traced(*args: Any, **options: Any) -> Any:
        seen.append(args)
        return original(*args, **options)

    monkeypatch.setattr(holder, name, traced)
    return seen


@pytest.mark.parametrize(
    ("holder", "name"),
    [
        (Producer, "publish"),
        (Producer, "_prepare"),
        (Producer, "_delivery_details"),
        (kombu.transport.redis.Channel, "_q_for_pri"),
        (kombu.transport.redis.Channel, "priority"),
        (kombu.transport.redis, "dumps"),
        *(
            (kombu.transport.virtual.base.Channel, name)
            for name in (
                "prepare_message",
                "_inplace_augment_message",
                "encode_body",
                "_get_message_priority",
                "_next_delivery_tag",
            )
        ),
    ],
)
def test_who_traces_kombu_sees_every_message(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    holder: Any,
    name: str,
) -> None:
    app = make_app(broker_server.url, new_queue())
    ours, messages = publisher_of(app), build(app, ["a", "b", "c", "d"])
    collect(ours, *messages)
    seen = _wrapped(monkeypatch, holder, name)
    collect(ours, *messages)
    assert len(seen) >= len(messages)


def test_one_that_would_differ_is_not_used(
    broker_server: Server,
    publisher_of: PublisherOf,
    monkeypatch: pytest.MonkeyPatch,
    given: list[Any],
) -> None:
    def other(producer: Any, message: Any, *more: Any) -> None:
        give(producer, message._replace(delivery_mode=1), *more)

    monkeypatch.setattr(f"{envelopes.__name__}.give", other)
    app = make_app(broker_server.url, new_queue())
    messages = build(app, ["a", "b", "c", "d"])
    ours = publisher_of(app)
    collect(ours, *messages)
    given.clear()
    collect(ours, *messages)
    assert len(given) == len(messages)


def test_an_error_while_one_is_made_costs_no_message(
    broker_server: Server, publisher_of: PublisherOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(f"{envelopes.__name__}.give", fail)
    app = make_app(broker_server.url, new_queue())
    found = collect(publisher_of(app), *build(app, ["a", "b", "c", "d"]))
    assert all(b'"id-' in each.push.message for each in found)


def test_one_that_is_too_large_for_a_script_is_told(
    broker_server: Server, publisher_of: PublisherOf
) -> None:
    app = make_app(broker_server.url, new_queue())
    texts = ["a", "b", "c", "d", "x" * (LARGEST * 3 // 4), "e"]
    found = collect(publisher_of(app), *build(app, texts))
    assert isinstance(found.pop(4), NotPlain)
    assert all(b'"id-' in each.push.message for each in found)
