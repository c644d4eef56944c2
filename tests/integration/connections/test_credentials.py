"""Credential providers, from every place that Celery and kombu read them from."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from celery import Celery
from redis.credentials import CredentialProvider

from celery_safe_leader import conf, create_safe_redis_leader
from celery_safe_leader._store.connection.client import make_async_client, make_client
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

LIMITS: dict[str, Any] = {"connect_timeout": 5.0, "read_timeout": 5.0}
TOKENS = ["token-Zq9-1", "token-Zq9-2"]
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


class Rotating(CredentialProvider):
    """Gives the token that is valid now, as those of cloud providers do."""

    valid = TOKENS[0]

    def get_credentials(self) -> tuple[str, str]:
        return "elector", Rotating.valid


PATH = f"{__name__}.Rotating"
SOURCES: dict[str, Callable[[int], tuple[Any, dict[str, Any]]]] = {
    "url": lambda port: (f"redis://u:p@127.0.0.1:{port}/0?credential_provider={PATH}", {}),
    "options": lambda port: (f"redis://127.0.0.1:{port}", {"credential_provider": Rotating()}),
    "redis": lambda port: (redis.Redis(port=port, credential_provider=Rotating()), {}),
    "redis.asyncio": lambda port: (
        redis.asyncio.Redis(port=port, credential_provider=Rotating()),
        {},
    ),
    "valkey": lambda port: (_valkey("valkey", port), {}),
    "valkey.asyncio": lambda port: (_valkey("valkey.asyncio", port), {}),
    "broker": lambda port: _of_celery(
        broker_url=f"redis://127.0.0.1:{port}/0?credential_provider={PATH}"
    ),
    "backend": lambda port: _of_celery(
        broker_url="amqp://h",
        result_backend=f"redis://127.0.0.1:{port}",
        redis_backend_credential_provider=PATH,
    ),
    "backend, object": lambda port: _of_celery(
        broker_url="amqp://h",
        result_backend=f"redis://127.0.0.1:{port}",
        redis_backend_credential_provider=Rotating(),
    ),
}


def _valkey(module: str, port: int) -> Any:
    from valkey.credentials import CredentialProvider as ValkeysProvider

    class Provider(ValkeysProvider):
        def get_credentials(self) -> tuple[str, str]:
            return Rotating().get_credentials()

    return importlib.import_module(module).Valkey(port=port, credential_provider=Provider())


def _of_celery(**settings: Any) -> tuple[Any, dict[str, Any]]:
    app = Celery("shop", set_as_current=False)
    app.conf.update(settings)
    read = conf.read(app)
    return read.url, read.options


@pytest.fixture
def guarded(start_server: Callable[..., Server]) -> Iterator[Server]:
    """A server that takes the first token of ``elector``, and nobody else."""
    server = start_server(password="of-the-operator")
    Rotating.valid = TOKENS[0]
    allow(server, TOKENS[0])
    yield server
    Rotating.valid = TOKENS[0]


def allow(server: Server, token: str) -> None:
    server.client().execute_command(
        "ACL", "SETUSER", "elector", "reset", "on", f">{token}", "~*", "&*", "+@all"
    )


@both
@pytest.mark.parametrize("where", SOURCES)
def test_each_connection_asks_the_provider_anew_and_shows_no_token(
    guarded: Server, asynchronous: bool, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source, options = SOURCES[where](guarded.port)
    shown = [repr(source) if isinstance(source, str) else ""]

    def rotate() -> None:
        Rotating.valid = TOKENS[1]
        allow(guarded, TOKENS[1])
        guarded.client().execute_command("CLIENT", "KILL", "USER", "elector")

    if asynchronous:

        async def run() -> None:
            async with make_async_client(source, options, **LIMITS) as client:
                assert await client.ping()
                rotate()
                with contextlib.suppress(redis.ConnectionError):
                    await client.ping()  # on the connection that was cut; nothing is repeated
                assert await client.ping()
                shown.append(f"{client!r} {client.connection_pool!r}")

        asyncio.run(run())
    else:
        with make_client(source, options, **LIMITS) as client:
            assert client.ping()
            rotate()
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
            assert client.ping()
            shown.append(f"{client!r} {client.connection_pool!r}")
    assert not [token for token in TOKENS if token in f"{shown} {caplog.text}"]


def test_a_leader_leads_on_while_tokens_change(guarded: Server, key: str) -> None:
    url = f"redis://127.0.0.1:{guarded.port}"
    options = {"credential_provider": Rotating()}
    with create_safe_redis_leader(redis=url, key=key, ttl=3, wait=0.2, options=options) as leader:
        assert leader.wait_until_leader(30)
        token = leader.fencing_token
        operator: Any = guarded.client()
        for valid in reversed(TOKENS):
            Rotating.valid = valid
            allow(guarded, valid)
            before = renewals(operator, key)
            operator.execute_command("CLIENT", "KILL", "USER", "elector")
            wait_until(lambda b=before: renewals(operator, key) != b, 30, "a renewal")  # type: ignore[misc]
        assert leader.fencing_token == token


def renewals(operator: Any, key: str) -> str:
    return str(operator.hget(f"{{leader:{key}}}:lease", "renewal"))
