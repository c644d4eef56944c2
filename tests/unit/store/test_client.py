"""Clients: what each is made with, from every kind of source. No server is needed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_safe_leader._store.connection.client import describe, make_async_client, make_client
from celery_safe_leader._store.connection.pool_settings import CLIENT_NAME, warn_unverified
from celery_safe_leader.errors import ConfigurationError

Maker = Callable[..., Any]
LIMITS: dict[str, Any] = {"connect_timeout": 1.5, "read_timeout": 2.5}
both = pytest.mark.parametrize("make", [make_client, make_async_client])


class Provider(CredentialProvider):
    """Stands for a provider of tokens."""

    def get_credentials(self) -> tuple[str, str]:
        return "someone", "a-token"


def arguments(client: Any) -> dict[str, Any]:
    return dict(client.connection_pool.connection_kwargs)


def connection(client: Any) -> Any:
    pool = client.connection_pool
    return pool.connection_class(**pool.connection_kwargs)


def sources() -> list[Any]:
    eager = Retry(ExponentialBackoff(), 10)
    eager_async = AsyncRetry(ExponentialBackoff(), 10)
    common: dict[str, Any] = {
        "decode_responses": True,
        "health_check_interval": 5,
        "socket_timeout": 99,
    }
    return [
        "redis://u:p@h:1/2?retry_on_timeout=yes&socket_timeout=99&protocol=3",
        "rediss://h",
        "unix:///run/r.sock",
        redis.Redis("h", 1, retry=eager, retry_on_error=[OSError], **common),
        redis.Redis("h", ssl=True, retry=eager, **common),
        redis.Redis(unix_socket_path="/run/r.sock", retry=eager, **common),
        redis.asyncio.Redis(host="h", retry=eager_async, retry_on_error=[OSError], **common),
        redis.asyncio.Redis(host="h", ssl=True, retry=eager_async, **common),
        redis.asyncio.Redis(unix_socket_path="/run/r.sock", retry=eager_async, **common),
    ]


@pytest.fixture(autouse=True)
def _warn_anew() -> None:
    """Forget of which connections this process has been warned: it is warned once of each."""
    warn_unverified.cache_clear()


@both
@pytest.mark.parametrize("number", range(len(sources())))
def test_no_source_brings_retries_or_limits_of_its_own(make: Maker, number: int) -> None:
    made = connection(make(sources()[number], **LIMITS))
    assert made.retry._retries == 0
    assert made.retry_on_error == []
    assert not made.retry_on_timeout
    assert made.socket_timeout == 2.5
    assert made.socket_connect_timeout == 1.5
    assert made.health_check_interval == 0
    assert made.protocol == 2
    assert not made.encoder.decode_responses
    if not isinstance(
        made, redis.UnixDomainSocketConnection | redis.asyncio.UnixDomainSocketConnection
    ):
        assert made.socket_keepalive


@both
@pytest.mark.parametrize("number", range(len(sources())))
def test_client_is_of_the_side_and_kind_asked_for(make: Maker, number: int) -> None:
    source = sources()[number]
    client = make(source, **LIMITS)
    module = redis if make is make_client else redis.asyncio
    assert isinstance(client, module.Redis)
    kinds = (module.Connection, module.SSLConnection, module.UnixDomainSocketConnection)
    assert issubclass(client.connection_pool.connection_class, kinds[number % 3])
    assert describe(client) == describe(source)


@both
def test_pool_is_not_shared_with_the_callers_client(make: Maker) -> None:
    theirs = redis.Redis("h", password="p", username="u", db=3, decode_responses=True)
    before = dict(theirs.connection_pool.connection_kwargs)
    ours = make(theirs, **LIMITS)
    assert ours.connection_pool is not theirs.connection_pool
    assert ours.auto_close_connection_pool
    assert theirs.connection_pool.connection_kwargs == before
    copied = {
        name: arguments(ours)[name] for name in ("host", "port", "db", "username", "password")
    }
    assert copied == {"host": "h", "port": 6379, "db": 3, "username": "u", "password": "p"}


@both
def test_options_come_before_the_source_and_name_the_client(make: Maker) -> None:
    assert arguments(make("redis://h", **LIMITS))["client_name"] == CLIENT_NAME
    assert arguments(make("redis://h?client_name=q", **LIMITS))["client_name"] == "q"
    options = {"client_name": None, "password": "new", "db": 4}
    made = arguments(make("redis://:old@h/1", options, **LIMITS))
    assert (made["client_name"], made["password"], made["db"]) == (None, "new", 4)


@both
def test_options_that_the_lease_decides_are_named_and_not_used(
    make: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"retry_on_timeout": True, "socket_timeout": 60}
    made = make("redis://h", options, **LIMITS, options_setting="leader_options")
    assert arguments(made)["socket_timeout"] == 2.5
    assert caplog.messages == [
        "leader_options: ignored retry_on_timeout, socket_timeout; limits, retries and decoding "
        "follow from the lease"
    ]


@both
def test_tls_verifies_unless_told_otherwise(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    made = connection(make("rediss://h", **LIMITS))
    assert (made.cert_reqs, made.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert caplog.messages == []


@both
@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("rediss://:pw@h?ssl_cert_reqs=none", {}),
        ("rediss://:pw@h?ssl_cert_reqs=CERT_NONE", {}),
        ("rediss://:pw@h", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("rediss://:pw@h", {"ssl_cert_reqs": 0}),
        ("rediss://:pw@h", {"ssl_cert_reqs": None, "ssl_check_hostname": True}),
        ("redis://:pw@h", {"ssl_cert_reqs": "none", "ssl": True}),
    ],
)
def test_tls_without_verification_is_told(
    make: Maker, url: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    made = [connection(make(url, options, **LIMITS)) for _ in range(3)][-1]
    assert (made.cert_reqs, made.check_hostname) == (ssl.CERT_NONE, False)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (
            logging.WARNING,
            "TLS to rediss://h:6379/0 does not verify anything (ssl_cert_reqs): a man in the "
            "middle can read the password and take the leadership",
        )
    ]


@both
def test_tls_without_the_name_is_told(make: Maker, caplog: pytest.LogCaptureFixture) -> None:
    made = connection(make("rediss://h?ssl_check_hostname=no", **LIMITS))
    assert (made.cert_reqs, made.check_hostname) == (ssl.CERT_REQUIRED, False)
    assert "does not verify the server's name (ssl_check_hostname)" in caplog.text


@both
def test_tls_arguments_are_left_out_of_a_plain_connection(make: Maker) -> None:
    made = arguments(make("redis://h?ssl_cert_reqs=required&ssl_ca_certs=/ca", **LIMITS))
    assert not [name for name in made if name.startswith("ssl_")]


@both
@pytest.mark.parametrize(
    ("source", "options"),
    [
        ("redis://u:p@h", {"credential_provider": Provider()}),
        ("redis://u:p@h", {"credential_provider": f"{__name__}.Provider"}),
        (f"redis://u:p@h?credential_provider={__name__}.Provider", {}),
        (redis.Redis("h", credential_provider=Provider()), {}),
    ],
)
def test_credential_provider_is_used_instead_of_a_password(
    make: Maker, source: Any, options: dict[str, Any]
) -> None:
    made = connection(make(source, options, **LIMITS))
    assert type(made.credential_provider).__name__ == "Provider"
    assert made.credential_provider.get_credentials() == ("someone", "a-token")
    assert (made.username, made.password) == (None, None)


class OwnConnection(redis.Connection):
    """A connection class of the caller's."""


def test_own_connection_class_is_kept_and_not_carried_over() -> None:
    pool = redis.ConnectionPool(connection_class=OwnConnection, host="h", password="pw")
    theirs = redis.Redis(connection_pool=pool)
    assert issubclass(make_client(theirs, **LIMITS).connection_pool.connection_class, OwnConnection)
    with pytest.raises(ConfigurationError) as refused:
        make_async_client(theirs, **LIMITS)
    assert str(refused.value) == (
        "redis is a client with OwnConnection or a redis_connect_func of its own; it must be an "
        "asyncio client or a URL, since these cannot be copied"
    )


@both
@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "redis://h",
            {"pasword": "secret"},
            "leader_options is given with 'pasword'; it must be made of arguments of redis-py's "
            "Connection",
        ),
        (
            "rediss://:secret@h?ssl_ca_cert=/ca",
            {},
            "leader_url is given with 'ssl_ca_cert'; it must be made of arguments of redis-py's "
            "SSLConnection",
        ),
        (
            "rediss://:secret@h?ssl_cert_reqs=maybe",
            {},
            "ssl_cert_reqs of leader_url is 'maybe'; it must be required, optional or none",
        ),
        (
            "rediss://:secret@h",
            {"ssl_cert_reqs": True},
            "ssl_cert_reqs of leader_options is True; it must be required, optional or none",
        ),
        (
            "redis://:secret@h",
            {"credential_provider": "decimal.Decimal"},
            "credential_provider of leader_options is of type Decimal; it must be an object with "
            "get_credentials(), such as a redis.CredentialProvider",
        ),
        (
            "redis://:secret@h",
            {"credential_provider": "no.such.Provider"},
            "credential_provider of leader_options is 'no.such.Provider'; it must be the dotted "
            "path of a class without arguments (loading it raised ModuleNotFoundError)",
        ),
        (
            "http://:secret@h",
            {},
            "leader_url is a URL with the scheme 'http'; it must be the URL of one Redis or Valkey "
            "server, of Sentinels or of nodes of a cluster, starting with redis, valkey, rediss, "
            "valkeys, unix, redis+socket, sentinel, redis-sentinel, redis+cluster, rediss+cluster "
            "or redis-cluster, and then ://",
        ),
        (
            None,
            {},
            "leader_url is of type NoneType; it must be a URL, or a client of redis-py or "
            "valkey-py",
        ),
        (
            Sentinel([("h", 1)]).slave_for("mymaster", password="secret"),
            {},
            "leader_url is a client for replicas; it must be one for the master",
        ),
    ],
)
def test_bad_source_is_refused_with_a_readable_message(
    make: Maker, source: Any, options: dict[str, Any], message: str
) -> None:
    names = {"setting": "leader_url", "options_setting": "leader_options"}
    with pytest.raises(ConfigurationError) as refused:
        make(source, options, **LIMITS, **names)
    assert str(refused.value) == message
    assert "secret" not in repr(refused.value)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("valkeys://:pw@h", "rediss://h:6379/0"),
        ("amqp://u:pw@h//", "amqp://h//"),
        ("redis://:p/w@h", "redis://***"),
        (redis.Redis("::1", 7, 2, "pw"), "redis://[::1]:7/2"),
        (redis.asyncio.Redis(host="h", ssl=True, password="pw"), "rediss://h:6379/0"),
        (redis.Redis(unix_socket_path="/r"), "unix:///r?db=0"),
        (Sentinel([("h", 1)]).master_for("m"), "sentinel://m"),
        (None, "NoneType"),
        (b"redis://:pw@h", "bytes"),
    ],
)
def test_describe(source: object, shown: str) -> None:
    assert describe(source) == shown
