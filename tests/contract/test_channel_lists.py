"""Taking what is sent to a leader, on each kind of server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from celery_safe_leader._core.messages import Part, Received
from celery_safe_leader._store.channel_lists import RedisChannel
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError
from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import AT_FIRST, denials, user_with, words_of

LONG = 60.0
PARTS = (Part.REQUESTS, Part.CHANGES)


def make(url: str, key: str, *parts: Part) -> RedisChannel:
    client = make_client(url, connect_timeout=10.0, read_timeout=LONG + 10.0)
    return RedisChannel(client, ElectionKeys(key, BEAT), parts or PARTS)


def wanted() -> bool:
    return True


@pytest.fixture
def keys(key: str) -> ElectionKeys:
    return ElectionKeys(key, BEAT)


@pytest.fixture
def channel(shared_server: ExternalServer, key: str) -> Iterator[RedisChannel]:
    made = make(shared_server.url, key)
    yield made
    made.interrupt()


def test_both_lists_lie_under_the_prefix_of_the_election(keys: ElectionKeys, key: str) -> None:
    assert keys.ask == f"{{leader:{key}}}:beat:ask"
    assert keys.changes == f"{{leader:{key}}}:beat:changes"


def test_what_was_sent_is_taken_once_in_its_order(
    channel: RedisChannel, keys: ElectionKeys, client: Any
) -> None:
    client.rpush(keys.changes, "edited")
    client.rpush(keys.ask, b"one", b"\xff")
    taken = [channel.take(LONG, wanted) for _ in range(3)]
    assert taken == [
        Received(Part.REQUESTS, b"one"),
        Received(Part.REQUESTS, b"\xff"),
        Received(Part.CHANGES, b"edited"),
    ]
    assert not client.exists(keys.ask, keys.changes)
    assert channel.take(0.01, wanted) is None


def test_a_part_that_is_not_read_is_left_to_others(
    shared_server: ExternalServer, key: str, keys: ElectionKeys, client: Any
) -> None:
    client.rpush(keys.ask, "for the worker")
    channel = make(shared_server.url, key, Part.CHANGES)
    assert channel.take(0.05, wanted) is None
    assert client.lrange(keys.ask, 0, -1) == ["for the worker"]
    channel.interrupt()


def test_a_reader_that_waits_is_handed_what_comes(
    channel: RedisChannel, keys: ElectionKeys, client: Any
) -> None:
    taken: list[Received | None] = []
    reader = threading.Thread(target=lambda: taken.append(channel.take(LONG, wanted)))
    reader.start()
    wait_until(lambda: client.info("clients")["blocked_clients"], 30, "a reader that waits")
    client.rpush(keys.changes, "x")
    reader.join(30)
    assert taken == [Received(Part.CHANGES, b"x")]


def test_a_read_can_be_broken_off(channel: RedisChannel, keys: ElectionKeys, client: Any) -> None:
    errors: list[Exception] = []

    def read() -> None:
        try:
            channel.take(LONG, wanted)
        except StoreUnavailableError as exc:
            errors.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: client.info("clients")["blocked_clients"], 30, "a reader that waits")
    channel.interrupt()
    reader.join(30)
    assert len(errors) == 1
    # Until the server has read the end of that connection, the value would go to it.
    wait_until(lambda: not client.info("clients")["blocked_clients"], 30, "the end of the read")
    client.rpush(keys.ask, "later")
    assert channel.take(LONG, wanted) == Received(Part.REQUESTS, b"later")


def test_a_read_that_is_not_wanted_any_more_opens_no_connection(channel: RedisChannel) -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnavailableError, match="interrupted"):
        channel.take(LONG, lambda: False)
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("list_", ["ask", "changes"])
def test_a_key_of_another_type_is_refused_in_words(
    channel: RedisChannel, keys: ElectionKeys, client: Any, list_: str
) -> None:
    client.set(getattr(keys, list_), "not a list")
    with pytest.raises(StoreRefusedError, match="something that is not this package's"):
        channel.take(LONG, wanted)


def test_the_rights_that_were_printed_before_there_was_a_channel_suffice(server: Server) -> None:
    url = user_with(server, words_of(AT_FIRST[0]))
    channel, keys = make(url, "shop"), ElectionKeys("shop", BEAT)
    client: Any = server.client()
    client.rpush(keys.changes, "x")
    assert channel.take(LONG, wanted) == Received(Part.CHANGES, b"x")
    assert channel.take(0.05, wanted) is None
    assert denials(client) == []
    channel.interrupt()


def test_a_server_that_went_away_is_found_again(server: Server, key: str) -> None:
    channel = make(server.url, key)
    assert channel.take(0.05, wanted) is None
    server.restart_empty()
    with contextlib.suppress(StoreUnavailableError):  # on the connection to the old process
        channel.take(0.05, wanted)
    assert channel.take(0.05, wanted) is None
    channel.interrupt()
