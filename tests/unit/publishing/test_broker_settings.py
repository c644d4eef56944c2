"""What the settings alone say about the way to the broker and its queues. No broker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import kombu.messaging
import kombu.transport.redis
import pytest
from celery import Celery
from kombu.common import Broadcast
from kombu.entity import Exchange, Queue

from celery_safe_leader._publishing.broker_settings import (
    QueueKeys,
    describe_way,
    queue_keys,
    why_write_ahead,
)

OPEN = "transactional if broker and ledger are one Redis database, else write-ahead"
batches = pytest.mark.skipif(
    not hasattr(kombu.messaging.Producer, "batch"), reason="this kombu never goes that way"
)


class ForeignTransport(kombu.transport.redis.Transport):
    """Of a driver of its own."""

    driver_type = "mine"
    driver_name = "my-driver"


@pytest.fixture
def apps() -> Iterator[Any]:
    made: list[Celery] = []

    def make(broker: Any, **settings: Any) -> Celery:
        app = Celery("shop", set_as_current=False)
        app.conf.update(broker_url=broker, **settings)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@batches
@pytest.mark.parametrize(
    "broker",
    [
        "redis://h", "rediss://h:6380/1", "redis://:pw@h/0", "redis+socket:///tmp/s",
        "sentinel://a:1;sentinel://b:2", "redis://h;redis://h", ["redis://h"],
    ],
)  # fmt: skip
def test_one_redis_may_be_the_ledger_s(apps: Any, broker: Any) -> None:
    app = apps(broker)
    assert why_write_ahead(app) == ""
    assert describe_way(app) == OPEN


@batches
@pytest.mark.parametrize(
    ("broker", "reason"),
    [
        ("amqp://h", "the broker is not Redis (py-amqp)"),
        ("memory://", "the broker is not Redis (memory)"),
        ("redis://a;redis://b", "there is more than one broker URL"),
        (["redis://a", "redis://b"], "there is more than one broker URL"),
        ("redis://a;sentinel://b", "there is more than one broker URL"),
    ],
)
def test_where_the_settings_decide_the_reason_is_said(apps: Any, broker: Any, reason: str) -> None:
    app = apps(broker)
    assert why_write_ahead(app) == reason
    assert describe_way(app) == f"write-ahead ({reason})"


@batches
def test_a_transport_of_another_driver_is_named(apps: Any) -> None:
    app = apps("mine://h", broker_transport=f"{__name__}:ForeignTransport")
    assert why_write_ahead(app) == "the broker is not Redis (my-driver)"


@batches
def test_the_url_for_writing_counts(apps: Any) -> None:
    app = apps("redis://h", broker_write_url="amqp://h")
    assert why_write_ahead(app) == "the broker is not Redis (py-amqp)"


def test_an_older_kombu_is_named(apps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(kombu.messaging.Producer, "batch", raising=False)
    reason = f"kombu {kombu.__version__} cannot collect messages, which takes 5.7 or later"
    assert why_write_ahead(apps("redis://h")) == reason


@pytest.mark.parametrize("broker", ["no-such-transport://user:secret@h", 7])
def test_a_broker_that_cannot_be_read_is_left_to_the_connection(
    apps: Any, broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert describe_way(apps(broker)) == OPEN or not hasattr(kombu.messaging.Producer, "batch")
    assert all(record.levelno == logging.DEBUG for record in caplog.records)


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("shop", broker="redis://h", set_as_current=False)
    yield made
    made.close()


def names(app: Celery, *more: str) -> tuple[str, ...]:
    return queue_keys(app, *more).names


def test_without_settings_it_is_the_default_queue(app: Celery) -> None:
    assert queue_keys(app) == QueueKeys(("celery",), "", "\x06\x16")
    assert names(app, "leader.shop") == ("celery", "leader.shop")


def test_queues_of_task_queues_but_not_those_of_every_worker(app: Celery) -> None:
    app.conf.task_default_queue = "usual"
    app.conf.task_queues = [
        Queue("usual"), Queue("topical", Exchange("t", type="topic"), routing_key="a.#"),
        Broadcast("everybody"), Queue("fanned", Exchange("f", type="fanout")),
    ]  # fmt: skip
    assert names(app) == ("topical", "usual")


@pytest.mark.parametrize(
    "routes",
    [
        {"shop.*": {"queue": "routed"}, "other": "by-name", "third": {"exchange": "x"}},
        [{"shop.*": {"queue": "routed"}}, {"other": "by-name"}, lambda *_: None],
        ([("shop.*", {"queue": Queue("routed")}), ("other", "by-name")], "module.function"),
    ],
)
def test_queues_of_task_routes(app: Celery, routes: Any) -> None:
    app.conf.task_routes = routes
    assert names(app) == ("by-name", "celery", "routed")


@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_queues_of_entries_and_tasks(app: Celery) -> None:
    app.conf.beat_schedule = {
        "a": {"task": "t", "schedule": 1, "options": {"queue": "of-entry"}},
        "b": {"task": "t", "schedule": 1, "options": {"queue": Queue("of-object")}},
        "c": {"task": "t", "schedule": 1, "options": None},
        "d": {"task": "t", "schedule": 1, "options": {"priority": 3}},
    }

    @app.task(name="t", queue="of-task", shared=False)
    def task() -> None: ...

    assert names(app) == ("celery", "of-entry", "of-object", "of-task")


def test_prefix_and_separator_are_the_broker_s(app: Celery) -> None:
    app.conf.broker_transport_options = {"global_keyprefix": "shop:", "sep": ":"}
    assert queue_keys(app) == QueueKeys(("celery",), "shop:", ":")


def test_a_queue_named_by_a_priority_has_the_separator_of_kombu(app: Celery) -> None:
    kind = app.connection_for_write().get_transport_cls().Channel
    channel = kind.__new__(kind)  # without a connection
    assert channel._q_for_pri("celery", 3) == f"celery{queue_keys(app).separator}3"
