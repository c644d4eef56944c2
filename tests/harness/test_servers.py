"""The harness itself: servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server

Start = Callable[..., Server]


def test_shared_server_answers_under_a_key_of_ones_own(
    shared_server: ExternalServer, key: str
) -> None:
    client = shared_server.client()
    client.set(key, "1", ex=60)
    assert client.get(key) == "1"
    client.delete(key)


def test_server_is_of_the_kind_asked_for(server: Server) -> None:
    info = server.client().info("server")
    assert info.get("server_name", "redis") == server.kind
    assert not info["redis_version"].startswith("6."), "the oldest one, mistaken for this"
    assert info["tcp_port"] == server.port


def test_restart_empty_keeps_the_port_and_loses_the_data(server: Server) -> None:
    port, client = server.port, server.client()
    client.set("k", "1")
    server.restart_empty()
    assert server.port == port
    assert server.client().get("k") is None


def test_killed_server_refuses_connections(server: Server) -> None:
    server.kill()
    assert not server.running
    with pytest.raises(redis.ConnectionError):
        server.client().ping()


def test_data_survives_a_kill_when_persistence_is_asked_for(start_server: Start) -> None:
    server = start_server(config={"appendonly": "yes", "appendfsync": "always"})
    server.client().set("k", "1")
    server.kill()
    server.start()
    assert server.client().get("k") == "1"


def test_paused_server_accepts_and_does_not_answer(server: Server) -> None:
    client = server.client(socket_timeout=0.2)
    client.ping()
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    assert client.ping()


def test_stop_ends_a_server_in_good_order(server: Server) -> None:
    server.stop()
    assert server.process.returncode == 0


def test_password_is_in_the_url_and_is_required(start_server: Start) -> None:
    server = start_server(password="p@ss/word")
    assert server.client().ping()
    with (
        redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_unix_socket(start_server: Start) -> None:
    server = start_server(unix_socket=True)
    with redis.Redis.from_url(server.unix_url) as client:
        assert client.ping()


def test_unix_url_without_a_socket_says_so(valkey_server: Server) -> None:
    with pytest.raises(ValueError, match="unix_socket=True"):
        _ = valkey_server.unix_url


@pytest.mark.parametrize("password", ["", "secret"])
def test_replica_follows_until_it_is_promoted(
    start_server: Start, server: Server, password: str
) -> None:
    master = start_server(server.kind, password=password)
    replica = start_server(server.kind, password=password, replica_of=master)
    master.client().set("k", "1")
    client = replica.client()
    wait_until(lambda: client.get("k") == "1", 5, "the replica's copy")
    with pytest.raises(redis.ReadOnlyError):
        client.set("k", "2")
    replica.promote()
    client.set("k", "2")
    master.follow(replica)
    master.wait_ready()
    assert master.client().get("k") == "2"


def test_two_servers_have_different_ports_and_folders(start_server: Start) -> None:
    one, two = start_server(), start_server()
    assert one.port != two.port
    assert one.folder != two.folder


def test_close_removes_the_folder() -> None:
    with Server() as server:
        folder, pid = server.folder, server.process.pid
    assert not folder.exists()
    assert not Path(f"/proc/{pid}").exists()


def test_start_of_a_wrong_configuration_shows_the_log() -> None:
    server = Server(config={"maxmemory-policy": "nonsense"})
    try:
        with pytest.raises(AssertionError, match="maxmemory-policy"):
            server.start()
    finally:
        server.close()


def test_port_taken_in_the_meantime_is_replaced(start_server: Start) -> None:
    other = start_server()
    server = Server()
    server.port = other.port
    try:
        server.start()
        assert server.port != other.port
        assert server.client().info("server")["tcp_port"] == server.port
    finally:
        server.close()
