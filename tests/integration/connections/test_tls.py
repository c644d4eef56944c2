"""TLS: what is verified, on the wire. A relay speaks TLS, since not every server is built to."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
import redis.asyncio
from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._store.connection.client import make_async_client, make_client
from celery_safe_leader._store.connection.pool_settings import warn_unverified
from celery_safe_leader._store.errors import translate
from celery_safe_leader.errors import ConfigurationError
from tests.support.network.tls import TlsRelay, make_certificates
from tests.support.servers import Server

LIMITS: dict[str, Any] = {"connect_timeout": 5.0, "read_timeout": 5.0}
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


@pytest.fixture(autouse=True)
def _warn_anew() -> None:
    """Forget of which connections this process has been warned: it is warned once of each."""
    warn_unverified.cache_clear()


def ping(source: Any, *, asynchronous: bool, options: Any = None) -> bool:
    """Send one command on a client made from ``source``, and close the client."""
    if not asynchronous:
        with make_client(source, options, **LIMITS) as client:
            return bool(client.ping())

    async def run() -> bool:
        async with make_async_client(source, options, **LIMITS) as client:
            return bool(await client.ping())

    return asyncio.run(run())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA (``ca.crt``) and certificates by it, for ``localhost`` only and a client.

    The client's key has the password ``hush-hush``.
    """
    folder = tmp_path_factory.mktemp("tls")
    make_certificates(folder)
    return folder


@pytest.fixture
def tls_port(certificates: Path, valkey_server: Server) -> Iterator[int]:
    """The port at which a server speaks TLS."""
    target = (valkey_server.host, valkey_server.port)
    with TlsRelay(target, certificates / "server.crt", certificates / "server.key") as port:
        yield port


@both
def test_tls_with_the_right_ca(asynchronous: bool, tls_port: int, certificates: Path) -> None:
    url = f"rediss://localhost:{tls_port}?ssl_ca_certs={certificates / 'ca.crt'}"
    assert ping(url, asynchronous=asynchronous)


@both
@pytest.mark.parametrize("theirs", [redis.Redis, redis.asyncio.Redis])
def test_tls_is_copied_from_a_callers_client(
    asynchronous: bool, theirs: Any, tls_port: int, certificates: Path
) -> None:
    ca = str(certificates / "ca.crt")
    client = theirs(host="localhost", port=tls_port, ssl=True, ssl_ca_certs=ca)
    assert ping(client, asynchronous=asynchronous)


@both
@pytest.mark.parametrize(
    ("host", "trusted"), [("localhost", False), ("127.0.0.1", True)], ids=["ca", "name"]
)
def test_tls_refuses_what_it_cannot_verify(
    asynchronous: bool, host: str, trusted: bool, tls_port: int, certificates: Path
) -> None:
    query = f"?ssl_ca_certs={certificates / 'ca.crt'}" if trusted else ""
    with pytest.raises(redis.ConnectionError) as refused:
        ping(f"rediss://{host}:{tls_port}{query}", asynchronous=asynchronous)
    assert "CERTIFICATE_VERIFY_FAILED" in str(translate("the key", refused.value))


@both
def test_a_file_that_the_settings_name_and_that_is_missing_is_told_from_a_server_that_is_away(
    asynchronous: bool, tls_port: int, tmp_path: Path
) -> None:
    told = "see ssl_ca_certs, ssl_certfile and ssl_keyfile"
    for url, is_told in (
        (f"rediss://localhost:{tls_port}?ssl_ca_certs={tmp_path / 'none'}", True),
        (f"unix://{tmp_path / 'none'}", False),
    ):
        with pytest.raises((redis.ConnectionError, OSError)) as failed:
            ping(url, asynchronous=asynchronous)
        assert (told in str(translate("the key", failed.value))) is is_told


class NamingSentinel:
    """Answers every question with an address, as a Sentinel does, on a port of its own."""

    def __init__(self, address: tuple[str, int]) -> None:
        host, port = address[0], str(address[1])
        self._reply = f"*2\r\n${len(host)}\r\n{host}\r\n${len(port)}\r\n{port}\r\n".encode()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(self._reply * data.count(b"SENTINEL"))

    def __enter__(self) -> tuple[str, int]:
        self._thread.start()
        host, port = self._listening.getsockname()
        return str(host), int(port)

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@both
def test_tls_to_sentinels_and_to_the_master_are_two_things(
    asynchronous: bool, tls_port: int, certificates: Path
) -> None:
    ca = {"ssl": True, "ssl_ca_certs": str(certificates / "ca.crt")}
    files = certificates / "server.crt", certificates / "server.key"
    with (
        NamingSentinel(("localhost", tls_port)) as sentinel,
        TlsRelay(sentinel, *files) as sentinel_port,
    ):
        url = f"sentinel://localhost:{sentinel_port}"
        both_ways = {"master_name": "m", "sentinel_kwargs": ca, **ca}
        assert ping(url, asynchronous=asynchronous, options=both_ways)
        for untrusting in ({**both_ways, "sentinel_kwargs": {"ssl": True}},
                           {"master_name": "m", "sentinel_kwargs": ca, "ssl": True}):  # fmt: skip
            with pytest.raises(redis.ConnectionError) as refused:
                ping(url, asynchronous=asynchronous, options=untrusting)
            if redis.VERSION >= (5, 1):  # which say so in the text
                assert "CERTIFICATE_VERIFY_FAILED" in str(refused.value)


@both
def test_tls_unverified_only_when_told(
    asynchronous: bool, tls_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"rediss://127.0.0.1:{tls_port}?ssl_cert_reqs=none"
    assert ping(url, asynchronous=asynchronous)
    assert "does not verify anything" in caplog.text


@pytest.fixture
def mutual_port(certificates: Path, valkey_server: Server) -> Iterator[int]:
    """The port at which a server speaks TLS with clients that show a certificate."""
    target = (valkey_server.host, valkey_server.port)
    files = [certificates / name for name in ("server.crt", "server.key", "ca.crt")]
    with TlsRelay(target, *files) as port:
        yield port


def tls_arguments(certificates: Path) -> dict[str, str]:
    return {
        "ssl_cert_reqs": "required",
        "ssl_ca_certs": str(certificates / "ca.crt"),
        "ssl_certfile": str(certificates / "client.crt"),
        "ssl_keyfile": str(certificates / "open.key"),
    }


@both
@pytest.mark.parametrize("way", ["url", "redis", "redis.asyncio", "valkey", "valkey.asyncio"])
def test_client_certificates(
    asynchronous: bool, way: str, mutual_port: int, certificates: Path
) -> None:
    given: Any = tls_arguments(certificates)
    source: Any = f"rediss://localhost:{mutual_port}?{urlencode(given)}"
    if way != "url":
        module = importlib.import_module(way)
        make = module.Valkey if way.startswith("valkey") else module.Redis
        source = make(host="localhost", port=mutual_port, ssl=True, **given)
    assert ping(source, asynchronous=asynchronous)


@both
@pytest.mark.parametrize("side", ["broker", "result_backend"])
def test_client_certificates_that_celery_is_told_of(
    asynchronous: bool, side: str, mutual_port: int, certificates: Path
) -> None:
    url, given = f"rediss://localhost:{mutual_port}", tls_arguments(certificates)
    app = Celery("shop", set_as_current=False)
    if side == "broker":
        app.conf.update(broker_url=url.replace("rediss", "redis"), broker_use_ssl=given)
    else:
        app.conf.update(broker_url="amqp://h", result_backend=url, redis_backend_use_ssl=given)
    settings = conf.read(app)
    assert settings.server == f"rediss://localhost:{mutual_port}/0"
    assert ping(settings.url, options=settings.options, asynchronous=asynchronous)


@both
def test_a_client_without_certificate_is_told_so(
    asynchronous: bool, mutual_port: int, certificates: Path
) -> None:
    given = tls_arguments(certificates)
    del given["ssl_certfile"], given["ssl_keyfile"]
    with pytest.raises((redis.ConnectionError, OSError)):
        ping(f"rediss://localhost:{mutual_port}?{urlencode(given)}", asynchronous=asynchronous)


@both
@pytest.mark.parametrize("password", ["hush-hush", "wrong-hush"])
def test_a_key_with_a_password_which_is_never_shown(
    asynchronous: bool,
    password: str,
    mutual_port: int,
    certificates: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"rediss://localhost:{mutual_port}"
    locked = {"ssl_keyfile": str(certificates / "client.key"), "ssl_password": password}
    error: Exception | None = None
    try:
        ping(url, options={**tls_arguments(certificates), **locked}, asynchronous=asynchronous)
    except Exception as raised:
        error = raised
    if isinstance(error, ConfigurationError):  # asyncio with redis-py 5
        assert "given with 'ssl_password'; it must be made of arguments of redis-py's" in str(error)
    else:
        assert (error is None) == (password == "hush-hush"), error
    assert password not in f"{error!r} {error} {caplog.text}"
