"""Servers that are not as they should be, and clients of the caller's; both libraries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from celery_safe_leader import (
    StoreRefusedError,
    StoreUnavailableError,
    create_async_safe_redis_leader,
)
from tests.integration.library.shells import AsyncioShell, Shell
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

Start = Callable[..., Shell]


def first_error(candidate: Shell) -> Exception:
    wait_until(lambda: candidate.named("error"), 30)
    error: Exception = candidate.named("error")[0]
    return error


def test_a_wrong_password_is_named_and_not_shown(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server(password="right")
    url = f"redis://:s3cret@127.0.0.1:{server.port}/0"
    one = start_candidate(redis=url, key=key, ttl=0.6, wait=0.1)
    one.elect()
    error = first_error(one)
    assert isinstance(error, StoreRefusedError)
    assert "Redis refuses the user name or password" in str(error)
    assert key in str(error)
    assert "s3cret" not in str(error) + repr(error)
    assert isinstance(error.__cause__, redis.RedisError)
    # It goes on: somebody sets the password right.
    server.client().config_set("requirepass", "s3cret")
    one.wait_until_leader(30)


def test_a_missing_password_is_named(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server(password="right")
    one = start_candidate(redis=f"redis://127.0.0.1:{server.port}", key=key, ttl=0.6)
    one.elect()
    error = first_error(one)
    assert isinstance(error, StoreRefusedError)
    assert "password" in str(error)


def test_a_key_of_another_type_is_named(
    start_candidate: Start, quick_server: Server, terms: dict[str, Any]
):
    lease = f"{{leader:{terms['key']}}}:lease"
    quick_server.client().set(lease, "somebody else's")
    one = start_candidate(**terms)
    one.elect()
    error = first_error(one)
    assert isinstance(error, StoreRefusedError)
    assert lease in str(error)
    assert "holds something that is not this package's; delete it or use another key" in str(error)
    assert quick_server.client().get(lease) == "somebody else's"
    quick_server.client().delete(lease)
    one.wait_until_leader(30)


def test_a_read_only_replica_is_named(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    replica = start_server(replica_of=start_server())
    one = start_candidate(redis=replica.url, key=key, ttl=0.6, wait=0.1)
    one.elect()
    error = first_error(one)
    assert isinstance(error, StoreRefusedError)
    assert "this Redis is a read-only replica" in str(error)
    time.sleep(1)
    assert not one.leader.is_leader
    replica.promote()
    one.wait_until_leader(30)


def test_a_server_that_is_not_there_is_named(start_candidate: Start, key: str):
    one = start_candidate(redis="redis://:s3cret@127.0.0.1:1/0", key=key, ttl=0.6)
    one.elect()
    error = first_error(one)
    assert isinstance(error, StoreUnavailableError)
    assert "no answer from Redis" in str(error)
    assert "s3cret" not in str(error)


def test_a_leader_whose_server_becomes_a_replica_is_demoted(
    start_candidate: Start, start_server: Callable[..., Server], key: str
):
    server = start_server()
    one = start_candidate(redis=server.url, key=key, ttl=0.6, wait=0.1)
    one.elect()
    one.wait_until_leader(30)
    server.follow(("127.0.0.1", 1))
    wait_until(lambda: not one.leader.is_leader)
    assert "read-only replica" in str(first_error(one))
    server.promote()
    one.wait_until_leader(30)


@pytest.mark.parametrize("kind", ["redis.Redis", "redis.asyncio.Redis"])
def test_a_client_of_the_callers_is_copied_and_not_used(
    start_candidate: Start, quick_server: Server, key: str, kind: str
):
    retry: Any = Retry(ExponentialBackoff(), 5)
    terms: dict[str, Any] = {"decode_responses": True, "retry": retry, "socket_timeout": None}
    url = quick_server.url
    client: Any = (
        redis.Redis.from_url(url, **terms)
        if kind == "redis.Redis"
        else redis.asyncio.Redis.from_url(url, decode_responses=True)
    )
    one = start_candidate(redis=client, key=key, ttl=0.6, wait=0.1)
    two = start_candidate(redis=client, key=key, ttl=0.6, wait=0.1)
    one.elect()
    one.wait_until_leader(30)
    two.elect()
    one.shutdown()
    two.wait_until_leader(30)
    two.shutdown()
    assert [one.named("error"), two.named("error")] == [[], []]
    if kind == "redis.Redis":
        assert client.ping(), "the caller's client is his own"
        assert client.connection_pool.connection_kwargs["decode_responses"] is True
        client.close()


def test_a_client_with_retries_repeats_no_request_of_ours(
    start_blocking: Start, start_server: Callable[..., Server], key: str
):
    server = start_server()
    client = redis.Redis.from_url(server.url, retry=Retry(ExponentialBackoff(base=1, cap=60), 50))
    one = start_blocking(redis=client, key=key, ttl=0.6, wait=0.1)
    one.elect()
    one.wait_until_leader(30)
    server.kill()
    # Of its retries nobody would see the end.
    wait_until(lambda: len(one.named("error")) >= 2)
    client.close()


def test_one_event_loop_holds_many_candidates(quick_server: Server, key: str):
    one = AsyncioShell(redis=quick_server.url, key=key, ttl=0.6, wait=0.2)

    async def many() -> list[bool]:
        leaders = [
            create_async_safe_redis_leader(redis=quick_server.url, key=key, ttl=0.6, wait=0.2)
            for _ in range(20)
        ]
        for leader in leaders:
            await leader.elect()
        won = [asyncio.ensure_future(leader.wait_until_leader()) for leader in leaders]
        await asyncio.wait(won, return_when=asyncio.FIRST_COMPLETED)
        leading = [leader.is_leader for leader in leaders]
        for task in won:
            task.cancel()
        await asyncio.gather(*won, return_exceptions=True)
        for leader in leaders:
            await leader.shutdown()
        return leading

    try:
        assert one.run(many()).count(True) == 1
        assert one.tasks() == []
    finally:
        one.close()
