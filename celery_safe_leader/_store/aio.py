"""The store of an asyncio candidate: as the blocking one, awaited."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from typing import Any

import redis
import redis.asyncio

from celery_safe_leader._core.messages import Await, Reply, Request, Woken
from celery_safe_leader._store.codec import ScriptCall, decode, encode, flight
from celery_safe_leader._store.connection.failover import ask_there_async, is_elsewhere_for_now
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_check import ServerCheck
from celery_safe_leader._store.server_identity import ANY_COMMAND, ServerIdentity

__all__ = ["AsyncRedisStore"]

_of_the_parent: list[redis.asyncio.ConnectionPool] = []
"""Kept for good: collected, their connections would be closed."""


class AsyncRedisStore:
    """Executes requests, each at most once. One task at a time, on one event loop."""

    def __init__(
        self,
        client: redis.asyncio.Redis,
        waiting_client: redis.asyncio.Redis,
        keys: ElectionKeys,
        *,
        wait_replicas: int = 0,
        confirm_timeout: float = 1.0,
    ) -> None:
        """Make a store. Does no IO. Arguments as those of the blocking store."""
        self.keys = keys
        # Any: execute_command has no annotations in redis-py.
        self._client: Any = client
        self._waiting_client: Any = waiting_client
        self._lineage = ServerIdentity(keys)
        self._checkup = ServerCheck(keys)
        settings = client.connection_pool.connection_kwargs
        self._greet = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._connected
        self._wait_replicas = wait_replicas
        self._confirm_ms = max(1, int(confirm_timeout * 1000))

    async def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply. May be cancelled.

        Raises:
            StoreUnavailableError: No answer; it may have been executed.
            StoreRefusedError: Redis answered with an error, or with something else than a record.
        """
        try:
            if isinstance(request, Await):
                return Woken(await self._await(request.timeout))
            call = encode(request, self.keys)
            raw, confirmations = await self._run(call)
            await self._look_around()
        except (redis.RedisError, OSError) as exc:
            key = self.keys.wake if isinstance(request, Await) else self.keys.lease
            raise translate(key, exc) from exc
        confirmed = confirmations is None or confirmations >= self._wait_replicas
        return decode(raw, self.keys, confirmed=confirmed)

    def after_fork(self) -> None:
        """Leave the parent's connections alone, in a forked child, and start with none.

        They belong to the parent's event loop. Closing even one would take it out of the
        parent's epoll, which the child shares, and the parent would wait for it in vain.
        """
        for client in (self._client, self._waiting_client):
            pool = client.connection_pool
            _of_the_parent.append(pool)
            client.connection_pool = redis.asyncio.ConnectionPool(
                pool.connection_class, **pool.connection_kwargs
            )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.connection_pool.disconnect()
        await self._waiting_client.connection_pool.disconnect()

    async def _await(self, timeout: float) -> bool:
        try:
            reply = await self._waiting_client.execute_command("BLPOP", self.keys.wake, timeout)
        except redis.exceptions.AskError as exc:
            if not is_elsewhere_for_now(exc):
                raise
            # While the slot migrates, there is nothing to block on.
            await asyncio.sleep(timeout)
            return False
        return reply is not None

    async def _connected(self, connection: Any) -> None:
        """Greet the server, over a connection that is another one from now on."""
        self._lineage.connected()
        greeted = self._greet(connection)
        if inspect.isawaitable(greeted):
            await greeted

    async def _run(self, call: ScriptCall) -> tuple[Any, int | None]:
        try:
            return await self._run_known(call)
        except redis.ResponseError as exc:
            if self._lineage.by_connection or not self._lineage.denied(exc):
                raise
            return await self._run_known(call)

    async def _run_known(self, call: ScriptCall) -> tuple[Any, int | None]:
        """Run a call in a way that tells one server from another."""
        if not self._lineage.by_connection:
            return await self._run_once(call)
        pool = self._client.connection_pool
        await pool.release(await pool.get_connection(*ANY_COMMAND))  # connects, if it has to
        label = self._lineage.label
        result = await self._run_once(self._lineage.labelled(call))
        self._lineage.check(label)
        return result

    async def _run_once(self, call: ScriptCall) -> tuple[Any, int | None]:
        confirm = call.confirm and self._wait_replicas > 0
        try:
            return await self._send("EVALSHA", *call.command, confirm=confirm)
        except redis.exceptions.NoScriptError:
            # The server said that it ran nothing, so this is no second execution.
            return await self._send("EVAL", *call.full_command, confirm=confirm)

    async def _look_around(self) -> None:
        """Check the server, once: whatever comes of it, the election goes on."""
        if self._checkup.due and not self._lineage.by_connection:
            self._checkup.due = False
            with contextlib.suppress(redis.RedisError, OSError):
                self._checkup.take(await self._client.execute_command("INFO"))

    async def _send(self, *command: str | bytes | int, confirm: bool) -> tuple[Any, int | None]:
        try:
            return await self._send_here(*command, confirm=confirm)
        except redis.exceptions.AskError as exc:
            if not is_elsewhere_for_now(exc):
                raise
            wait = [("WAIT", self._wait_replicas, self._confirm_ms)] if confirm else []
            replies = await ask_there_async(self._client.connection_pool, exc, [command, *wait])
            raw, confirmations = flight(*replies, *([] if confirm else [0]))
            return raw, confirmations if confirm else None

    async def _send_here(
        self, *command: str | bytes | int, confirm: bool
    ) -> tuple[Any, int | None]:
        if not confirm:
            return await self._client.execute_command(*command), None
        # One connection, one flight: WAIT speaks of the writes of its own connection only.
        pipeline = self._client.pipeline(transaction=False)
        pipeline.execute_command(*command)
        pipeline.execute_command("WAIT", self._wait_replicas, self._confirm_ms)
        return flight(*(await pipeline.execute(raise_on_error=False)))
