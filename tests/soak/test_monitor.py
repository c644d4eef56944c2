"""The count at the list misses nothing, or says that it may have."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.soak.monitor import Monitor
from tests.soak.test_pushes import message
from tests.support.processes import wait_until
from tests.support.servers import Server


@pytest.fixture
def monitor(server: Server) -> Iterator[Monitor]:
    with Monitor(server) as made:
        yield made


def test_every_push_by_a_client_a_transaction_and_a_script_is_counted_once(
    server: Server, monitor: Monitor
) -> None:
    client = server.client()
    client.lpush("celery", message(leader_occurrence="client"))
    with client.pipeline(transaction=True) as pipe:
        pipe.lpush("celery", message(leader_occurrence="transaction"))
        pipe.execute()
    script = "return redis.call('LPUSH', KEYS[1], ARGV[1], ARGV[2])"
    values = [message(leader_occurrence=name) for name in ("script 1", "script 2")]
    client.eval(script, 1, "celery", *values)
    client.lpush("other", "no message")
    monitor.finish()
    assert monitor.void == ""
    occurrences = [found.run.occurrence for found in monitor.messages()]
    assert occurrences == ["client", "transaction", "script 1", "script 2"]


def test_ten_thousand_large_messages_at_once_are_all_seen(valkey_server: Server) -> None:
    with Monitor(valkey_server) as monitor:
        client = valkey_server.client()
        for start in range(0, 10_000, 1_000):
            with client.pipeline(transaction=False) as pipe:
                for number in range(start, start + 1_000):
                    text = message(leader_occurrence=str(number), filling="x" * 5_000)
                    pipe.lpush("celery", text)
                pipe.execute()
        monitor.finish()
        assert monitor.void == ""
        found = [m.run.occurrence for m in monitor.messages()]
        assert found == [str(number) for number in range(10_000)]


def test_a_lost_connection_makes_the_count_void(server: Server, monitor: Monitor) -> None:
    client = server.client()
    client.lpush("celery", message())
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    wait_until(lambda: monitor.void, 30, "the end of MONITOR")
    monitor.finish()
    assert "closed the connection" in monitor.void or "failed" in monitor.void


def test_a_push_that_failed_makes_the_count_void(server: Server, monitor: Monitor) -> None:
    client = server.client()
    client.set("text", "no list")
    client.eval("return redis.pcall('LPUSH', KEYS[1], ARGV[1]) and 1", 1, "text", message())
    monitor.finish()
    assert monitor.void == "1 pushes failed; MONITOR shows them like the others"


def test_a_push_that_was_not_seen_makes_the_count_void(server: Server) -> None:
    with Monitor(server) as monitor:
        server.client().lpush("celery", message())
        monitor._pushes -= 1
        monitor.finish()
        assert monitor.void.startswith("MONITOR showed ")


def test_a_message_that_cannot_be_read_makes_the_count_void(
    server: Server, monitor: Monitor
) -> None:
    server.client().lpush("celery", json.dumps({**json.loads(message()), "body": "no body"}))
    wait_until(lambda: monitor.void, 30, "an error of MONITOR's reader")
    assert monitor.void.startswith("reading MONITOR failed")
