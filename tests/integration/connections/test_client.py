"""Clients against real servers: logins, sockets, and servers that do not answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio

from celery_safe_leader._store.connection.client import make_async_client, make_client
from celery_safe_leader._store.connection.pool_settings import CLIENT_NAME
from tests.support.network.proxy import Proxy
from tests.support.servers import Server

Start = Callable[..., Server]
LIMITS: dict[str, Any] = {"connect_timeout": 2.0, "read_timeout": 2.0}
PASSWORD = "Zq9:/@#?;7é"


def ask(source: Any, *command: str, asynchronous: bool, **arguments: Any) -> Any:
    """Run one command on a client made from ``source``, and close the client."""
    limits = {**LIMITS, **arguments}
    if not asynchronous:
        client = make_client(source, **limits)
        try:
            return client.execute_command(*command)
        finally:
            client.close()

    async def run() -> Any:
        async_client = make_async_client(source, **limits)
        try:
            return await async_client.execute_command(*command)
        finally:
            await async_client.aclose()

    return asyncio.run(run())


both = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


@both
def test_login_with_an_odd_password(start_server: Start, asynchronous: bool) -> None:
    server = start_server(password=PASSWORD)
    assert ask(server.url, "ECHO", "ü", asynchronous=asynchronous) == "ü".encode()


@both
@pytest.mark.parametrize("login", ["", ":wrong-Zq9@"])
def test_wrong_password_is_an_error_at_once_and_is_not_shown(
    start_server: Start, asynchronous: bool, login: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = start_server(password=PASSWORD)
    with pytest.raises(redis.AuthenticationError) as refused:
        ask(f"redis://{login}127.0.0.1:{server.port}", "GET", "k", asynchronous=asynchronous)
    shown = f"{refused.value!r} {refused.value} {caplog.text}"
    assert "wrong-Zq9" not in shown
    assert PASSWORD not in shown


@both
def test_acl_user(start_server: Start, asynchronous: bool) -> None:
    server = start_server()
    server.client().acl_setuser(
        "elector", enabled=True, passwords=["+pw"], commands=["+echo", "+client"]
    )
    url = f"redis://elector:pw@127.0.0.1:{server.port}"
    assert ask(url, "ECHO", "x", asynchronous=asynchronous) == b"x"
    with pytest.raises(redis.ResponseError, match=r"(?i)no permissions"):
        ask(url, "GET", "x", asynchronous=asynchronous)


@both
def test_unix_socket_and_database(start_server: Start, asynchronous: bool) -> None:
    server = start_server(password=PASSWORD, unix_socket=True)
    url = server.unix_url.replace("?db=0", "?db=3")
    ask(url, "SET", "k", "v", asynchronous=asynchronous)
    assert list(server.client().info("keyspace")) == ["db3"]


@both
def test_connections_can_be_told_on_the_server(start_server: Start, asynchronous: bool) -> None:
    server = start_server()
    listed = ask(server.url, "CLIENT", "INFO", asynchronous=asynchronous)
    assert f"name={CLIENT_NAME} ".encode() in listed


@both
@pytest.mark.parametrize("theirs", [redis.Redis, redis.asyncio.Redis])
def test_callers_client_is_copied_and_not_used(
    start_server: Start, asynchronous: bool, theirs: Any
) -> None:
    server = start_server(password=PASSWORD)
    client = theirs(port=server.port, password=PASSWORD, decode_responses=True)
    assert ask(client, "ECHO", "x", asynchronous=asynchronous) == b"x"
    assert client.connection_pool._available_connections == []
    assert not client.connection_pool._in_use_connections


@both
def test_connecting_sends_nothing_but_login_name_and_database(
    start_server: Start, asynchronous: bool
) -> None:
    server = start_server()
    operator = server.client()
    operator.config_resetstat()
    ask(f"{server.url[:-1]}2", "ECHO", "x", asynchronous=asynchronous)
    sent = {name.removeprefix("cmdstat_") for name in operator.info("commandstats")}
    assert sent - {"config|resetstat"} == {"client|setname", "select", "echo"}


@both
def test_a_server_that_refuses_the_name_is_used_without(
    start_server: Start, asynchronous: bool
) -> None:
    server = start_server()
    server.client().acl_setuser(
        "elector", enabled=True, passwords=["+pw"], commands=["+echo", "+select", "-client"]
    )
    url = f"redis://elector:pw@127.0.0.1:{server.port}/1"
    assert ask(url, "ECHO", "x", asynchronous=asynchronous) == b"x"


def test_a_proxy_that_closes_at_the_name_is_used_without_from_then_on(proxy: Proxy) -> None:
    cut = proxy.cut_after_request(b"SETNAME")
    client = make_client(proxy.url(), {}, connect_timeout=5, read_timeout=5)
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert cut.is_set()
    # It would close again.
    cut = proxy.cut_after_request(b"SETNAME")
    assert client.ping()
    client.connection_pool.disconnect()
    assert client.ping()
    assert not cut.is_set()
    client.close()


@both
def test_lost_reply_is_an_error_and_the_command_is_not_repeated(
    server: Server, proxy: Proxy, asynchronous: bool
) -> None:
    cut = proxy.cut_after_request(b"INCR")
    with pytest.raises(redis.ConnectionError):
        ask(proxy.url(), "INCR", "counter", asynchronous=asynchronous)
    assert cut.is_set()
    assert server.client().get("counter") == "1"


@both
def test_silent_server_costs_the_read_timeout_and_no_more(
    server: Server, proxy: Proxy, asynchronous: bool
) -> None:
    eager = redis.Redis(port=proxy.port, socket_timeout=10_000)
    proxy.black_hole()
    began = time.monotonic()
    # Of the caller's own limit nobody would see the end.
    with pytest.raises(redis.TimeoutError):
        ask(eager, "INCR", "counter", asynchronous=asynchronous, read_timeout=0.3)
    assert time.monotonic() - began >= 0.3
    assert server.client().get("counter") is None


@both
def test_refused_connection_is_an_error_of_the_call_and_not_of_the_construction(
    start_server: Start, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server()
    server.stop()
    make = make_async_client if asynchronous else make_client
    make(server.url, **LIMITS)
    kind: Any = redis.asyncio.Connection if asynchronous else redis.Connection
    attempts: list[Any] = []
    attempt: Any = kind._connect

    def noted(connection: Any) -> Any:
        attempts.append(connection)
        return attempt(connection)

    monkeypatch.setattr(kind, "_connect", noted)
    with pytest.raises(redis.ConnectionError):
        ask(server.url, "ECHO", "x", asynchronous=asynchronous)
    assert len(attempts) == 1
