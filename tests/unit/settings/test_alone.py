"""Workers whose broker lies in their own memory, and transports that cannot be loaded."""

from __future__ import annotations

import sys
from typing import Any

import kombu.transport
import pytest
from celery import Celery
from celery.beat import Service
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader.beat import LeaderScheduler


def app_of(broker: str, **settings: Any) -> Celery:
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(settings)
    return app


def test_a_broker_in_memory_needs_no_redis_in_a_worker() -> None:
    settings = conf.read_for_worker(app_of("memory://"))
    assert (settings.is_alone, settings.queue) == (True, "leader.shop")
    # One that is there all the same is used.
    app = app_of("memory://", leader_url="redis://here/0")
    assert not conf.read_for_worker(app).is_alone
    with pytest.raises(ImproperlyConfigured, match="leader_url is not set"):
        conf.read(app_of("memory://"))


@pytest.mark.parametrize("broker", ["amqp://here//", "filesystem://", "memory://;amqp://here//"])
def test_a_broker_that_others_share_needs_one(broker: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="leader_url is not set"):
        conf.read_for_worker(app_of(broker))


def test_a_transport_that_cannot_be_loaded_ends_beat_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kombu.transport, "_transport_cache", {})
    monkeypatch.setitem(sys.modules, "kombu.transport.redis", None)
    app = app_of("redis://:secret@here/0")
    with pytest.raises(ImproperlyConfigured) as raised:
        Service(app, scheduler_cls=LeaderScheduler).scheduler  # noqa: B018
    said = str(raised.value)
    assert "the transport of broker_url cannot be loaded" in said
    assert "kombu.transport.redis" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SLMQ", "a package that kombu.transport.SLMQ needs is missing"),
        ("confluentkafka", "name 'KafkaException' is not defined"),
    ],
)
def test_a_transport_that_loads_without_the_package_that_it_needs_ends_beat_too(
    name: str, why: str
) -> None:
    # Its errors of connections could not be told from those of an entry: beat would go on for ever.
    with pytest.raises(ImproperlyConfigured) as raised:
        conf.check_transport(app_of(f"{name.lower()}://here", leader_url="redis://here/0"))
    assert str(raised.value) == (
        f"the transport of broker_url cannot be loaded: {why}. Install what is missing, and start "
        "again"
    )
