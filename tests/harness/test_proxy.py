"""The harness itself: the proxy."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

PING = b"PING\r\n"
PONG = b"+PONG\r\n"


@pytest.fixture
def valkey_proxy(valkey_server: Server, start_proxy: Callable[[Server], Proxy]) -> Proxy:
    return start_proxy(valkey_server)


@pytest.fixture
def connect(valkey_proxy: Proxy) -> Iterator[Callable[..., socket.socket]]:
    """Bare connections by way of the proxy."""
    sockets: list[socket.socket] = []

    def new(timeout: float = 30) -> socket.socket:
        sockets.append(socket.create_connection(valkey_proxy.address, timeout))
        return sockets[-1]

    yield new
    for each in sockets:
        each.close()


def ask(connection: socket.socket, request: bytes = PING) -> bytes:
    connection.sendall(request)
    return connection.recv(1000)


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_all_passes_when_nothing_is_ordered(server: Server, proxy: Proxy) -> None:
    value = "x" * 3_000_000
    with redis.Redis.from_url(proxy.url(), decode_responses=True) as client:
        client.set("k", value)
        assert client.get("k") == value
        assert proxy.connections == 1
    wait_until(lambda: proxy.connections == 0, 5, "the end of the connection")
    assert server.client().get("k") == value


def test_black_hole_swallows_and_old_connections_stay_dead(
    valkey_server: Server,
    valkey_proxy: Proxy,
    connect: Callable[..., socket.socket],
) -> None:
    old = connect(timeout=0.2)
    assert ask(old) == PONG
    valkey_proxy.black_hole()
    born_dead = connect(timeout=0.2)
    for connection in (old, born_dead):
        with pytest.raises(TimeoutError):
            ask(connection, b"SET swallowed 1\r\n")
    valkey_proxy.heal()
    for connection in (old, born_dead):
        with pytest.raises(TimeoutError):
            ask(connection)
    assert ask(connect()) == PONG
    assert valkey_server.client().get("swallowed") is None


def test_black_hole_swallows_a_reply_that_is_under_way(
    valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    connection = connect(timeout=0.5)
    assert ask(connection) == PONG
    valkey_proxy.delay(0.1)
    connection.sendall(PING)
    time.sleep(0.05)
    valkey_proxy.black_hole()
    with pytest.raises(TimeoutError):
        connection.recv(1000)


def test_in_a_black_hole_neither_side_hears_of_the_others_end(
    valkey_server: Server, valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    connection = connect(timeout=0.2)
    assert ask(connection) == PONG
    admin = valkey_server.client()
    clients = len(admin.client_list())
    valkey_proxy.black_hole()
    connection.close()
    wait_until(lambda: valkey_proxy.connections == 0, 5, "the proxy to see the end")
    assert len(admin.client_list()) == clients
    valkey_proxy.cut()
    wait_until(lambda: len(admin.client_list()) < clients, 5, "the server to see the cut")


def test_delay_holds_each_way_and_keeps_the_order(
    valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    connection = connect(timeout=60)
    assert ask(connection) == PONG
    valkey_proxy.delay(1.0)
    began = time.monotonic()
    for number in range(50):
        connection.sendall(b"ECHO %02d\r\n" % number)
    received = b""
    while len(received) < 50 * 8:
        received += connection.recv(1000)
    assert received == b"".join(b"$2\r\n%02d\r\n" % number for number in range(50))
    # Each way once, not for one after the other, which would be 100 s.
    assert 2.0 <= time.monotonic() - began < 50
    valkey_proxy.delay(1000)
    valkey_proxy.heal()
    assert ask(connection) == PONG


def test_replies_under_way_arrive_before_the_servers_end(
    valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    valkey_proxy.delay(0.05)
    connection = connect()
    assert ask(connection, b"PING\r\nQUIT\r\n") == PONG + b"+OK\r\n"
    assert is_closed(connection)


def test_cut_closes_present_connections_and_accepts_new_ones(
    valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    old = connect()
    assert ask(old) == PONG
    valkey_proxy.cut()
    assert is_closed(old)
    assert ask(connect()) == PONG


def test_refuse_lets_nobody_in_until_accept(
    valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    port, old = valkey_proxy.port, connect()
    assert ask(old) == PONG
    valkey_proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert ask(old) == PONG
    valkey_proxy.accept()
    assert valkey_proxy.port == port
    assert ask(connect()) == PONG


def test_cut_after_request_lets_the_server_execute_it_once(
    valkey_server: Server, valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    connection, other = connect(), connect()
    assert ask(other) == PONG
    cut = valkey_proxy.cut_after_request(b"INCR count")
    assert ask(connection) == PONG
    assert not cut.is_set()
    # The match is found across the border of two packets.
    connection.sendall(b"INCR co")
    time.sleep(0.05)
    connection.sendall(b"unter\r\n")
    assert is_closed(connection)
    assert cut.wait(5)
    assert valkey_server.client().get("counter") == "1"
    assert ask(other, b"INCR counter\r\n") == b":2\r\n"


def test_server_that_is_down_closes_the_connection(
    valkey_server: Server, valkey_proxy: Proxy, connect: Callable[..., socket.socket]
) -> None:
    valkey_server.kill()
    assert is_closed(connect())
    valkey_server.start()
    assert ask(connect()) == PONG


def test_close_frees_the_port_and_ends_the_thread(valkey_server: Server) -> None:
    with Proxy(valkey_server.port) as proxy:
        with socket.create_connection(proxy.address, 5) as connection:
            assert ask(connection) == PONG
            proxy.close()
            assert is_closed(connection)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(proxy.address, 5)
