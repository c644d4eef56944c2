"""The note of the way that a leader's runs take: what is written, and what is read of anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_safe_leader._ledger.way import LIFE, NotedWay, Way, note_way, read_way
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreUnavailableError
from tests.support.servers import ExternalServer, Server

LIMIT = 2.0


@pytest.fixture
def keys(key: str) -> ElectionKeys:
    return ElectionKeys(key, "beat", "shop:")


@pytest.fixture
def client(shared_server: ExternalServer) -> Iterator[redis.Redis]:
    made = make_client(shared_server.url, connect_timeout=LIMIT, read_timeout=LIMIT)
    yield made
    made.close()


def test_what_is_noted_is_read_and_goes_away_by_itself(
    client: redis.Redis, keys: ElectionKeys, key: str
) -> None:
    assert read_way(client, keys) is None
    note_way(client, keys, 2**53 - 1, Way.TRANSACTIONAL, "")
    assert read_way(client, keys) == NotedWay(2**53 - 1, Way.TRANSACTIONAL, "")
    reason = "the broker is another server: läuft"
    note_way(client, keys, 7, Way.WRITE_AHEAD, reason)
    assert read_way(client, keys) == NotedWay(7, Way.WRITE_AHEAD, reason)
    name = f"shop:{{leader:{key}}}:beat:publication"
    assert client.get(name) == f"7 write-ahead {reason}".encode()
    seconds: Any = client.ttl(name)
    assert LIFE - 60 < seconds <= LIFE == 604_800


def test_each_role_has_a_note_of_its_own(client: redis.Redis, key: str) -> None:
    beat, worker = ElectionKeys(key, "beat"), ElectionKeys(key, "worker")
    note_way(client, beat, 1, Way.TRANSACTIONAL, "")
    assert read_way(client, worker) is None


@pytest.mark.parametrize(
    ("reason", "noted"),
    [
        ("two\nlines\r\n and\ttabs ", "two lines and tabs"),
        ("\x1b[31mred\x00", "?[31mred?"),
        ("x" * 5000, "x" * 200),
        ("ä" * 150, "ä" * 100),
        ("x" + "ä" * 150, "x" + "ä" * 99),
        ("y" * 199 + " z", "y" * 199),
        ("half \ud800", "half ?"),
        ("  ", ""),
    ],
)
def test_a_reason_is_one_line_of_at_most_200_bytes(
    client: redis.Redis, keys: ElectionKeys, reason: str, noted: str
) -> None:
    note_way(client, keys, 7, Way.WRITE_AHEAD, reason)
    assert read_way(client, keys) == NotedWay(7, Way.WRITE_AHEAD, noted)
    raw = client.get(keys.publication)
    assert raw == f"7 write-ahead {noted}".rstrip().encode()


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b"7", b"7 ", b"7 by-magic", b"x write-ahead", b" write-ahead", b"-7 write-ahead",
        b"\xff\xfe\x00", "٧ write-ahead".encode(), b"9" * 5000 + b" write-ahead",
        b"1" * 17 + b" write-ahead", b"7\nwrite-ahead", b"7  write-ahead", b"{}",
    ],
)  # fmt: skip
def test_what_is_no_note_reads_as_none(
    client: redis.Redis, keys: ElectionKeys, value: bytes
) -> None:
    client.set(keys.publication, value)
    assert read_way(client, keys) is None


def test_a_reason_that_somebody_else_wrote_is_safe_to_show(
    client: redis.Redis, keys: ElectionKeys
) -> None:
    client.set(keys.publication, b"7 write-ahead \x1b[2J\xff\n" + b"x" * 5000)
    noted = read_way(client, keys)
    assert noted is not None
    assert noted.reason.startswith("?[2J\N{REPLACEMENT CHARACTER} xx")
    assert noted.reason.isprintable()
    assert len(noted.reason.encode()) == 200


def test_a_value_of_another_type_reads_as_none_and_is_replaced(
    client: redis.Redis, keys: ElectionKeys
) -> None:
    client.hset(keys.publication, "a", "b")
    assert read_way(client, keys) is None
    note_way(client, keys, 7, Way.TRANSACTIONAL, "")
    assert read_way(client, keys) == NotedWay(7, Way.TRANSACTIONAL, "")


def test_no_answer_is_an_error_of_ours(valkey_server: Server) -> None:
    keys = ElectionKeys("shop", "beat")
    client = make_client(valkey_server.url, connect_timeout=LIMIT, read_timeout=LIMIT)
    valkey_server.kill()
    with pytest.raises(StoreUnavailableError, match=r"\{leader:shop\}:beat:publication"):
        note_way(client, keys, 7, Way.TRANSACTIONAL, "")
    with pytest.raises(StoreUnavailableError, match="no answer from Redis"):
        read_way(client, keys)
    client.close()
