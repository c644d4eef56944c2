"""Settings of Celery's that name Sentinels, or nodes of a cluster, mean the same here."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader.conf import LeaderSettings

SENTINELS = "sentinel://:Zq9@a:1/2;sentinel://b:2"
OPTIONS = {
    "master_name": "mymaster",
    "min_other_sentinels": 1,
    "sentinel_kwargs": {"password": "Zq9", "socket_timeout": 0.1},
    "visibility_timeout": 60,
    "socket_timeout": 99,
}
TAKEN = {
    "master_name": "mymaster",
    "min_other_sentinels": 1,
    "sentinel_kwargs": {"password": "Zq9"},
}


def read(**values: Any) -> LeaderSettings:
    app = Celery("shop", set_as_current=False)
    app.config_from_object(type("Settings", (), values))
    return conf.read(app)


@pytest.mark.parametrize("broker", [SENTINELS, SENTINELS.split(";")], ids=["text", "list"])
def test_the_brokers_sentinels(broker: Any) -> None:
    settings = read(broker_url=broker, broker_transport_options=OPTIONS)
    assert settings.url == SENTINELS
    assert settings.server == "sentinel://a:1,b:2/2"
    assert settings.options == TAKEN
    assert settings.url_setting == "broker_url"
    assert "Zq9" not in repr(settings)


def test_the_result_backends_sentinels() -> None:
    settings = read(
        broker_url="amqp://h//",
        result_backend=SENTINELS,
        result_backend_transport_options=OPTIONS,
        redis_backend_use_ssl={"ssl_ca_certs": "/ca"},
    )
    assert settings.url == SENTINELS
    assert settings.options == {**TAKEN, "ssl": True, "ssl_ca_certs": "/ca"}


def test_what_leader_options_say_comes_first() -> None:
    settings = read(
        broker_url=SENTINELS,
        broker_transport_options=OPTIONS,
        leader_options={"master_name": "other"},
    )
    assert settings.options == {**TAKEN, "master_name": "other"}


def test_transport_options_are_those_of_the_broker_alone() -> None:
    settings = read(
        broker_url=SENTINELS,
        broker_transport_options=OPTIONS,
        leader_url="sentinel://c",
        leader_options={"master_name": "other"},
    )
    assert settings.options == {"master_name": "other"}
    assert read(broker_url="redis://h", broker_transport_options=OPTIONS).options == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"leader_url": "sentinel://c"},
            "master_name of leader_options is not set; it must be the name by which the Sentinels "
            "know the master",
        ),
        (
            {"leader_url": "sentinel://c", "leader_options": {"master_name": ""}},
            "master_name of leader_options is ''; it must be the name by which the Sentinels know "
            "the master",
        ),
        (
            {"leader_url": "redis-cluster://c", "leader_options": {"startup_nodes": "Zq9"}},
            "startup_nodes of leader_options is of type str; it must be a list of pairs of a host "
            "and a port",
        ),
    ],
)
def test_what_is_missing_is_told_before_anything_starts(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as refused:
        read(broker_url="amqp://h", **values)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("url", "options", "server"),
    [
        ("redis+cluster://a:1,b:2", {}, "redis+cluster://a:1,b:2/0"),
        ("rediss+cluster://a:1;rediss+cluster://b:2", {}, "rediss+cluster://a:1,b:2/0"),
        ("redis-cluster://a", {"startup_nodes": [("b", 2)]}, "redis+cluster://a:6379/0"),
        ("redis://a", {"cluster": True}, "redis+cluster://a:6379/0"),
        ("rediss://a", {"cluster": True}, "rediss+cluster://a:6379/0"),
    ],
)
def test_a_cluster(url: str, options: dict[str, Any], server: str) -> None:
    settings = read(broker_url="amqp://h", leader_url=url, leader_options=options)
    assert (settings.server, settings.options) == (server, options)
