"""The store of an asyncio candidate: as the blocking one, awaited."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio

from celery_safe_leader._core.messages import Reply, Request
from celery_safe_leader._store.commands import (
    STEP_ERRORS,
    Block,
    Connect,
    Resend,
    Step,
    StoreCommands,
)
from celery_safe_leader._store.connection.failover import is_ask, resend_after_ask_async
from celery_safe_leader._store.errors import secrets_of
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_identity import ANY_COMMAND

__all__ = ["AsyncRedisStore"]

_of_the_parent: list[redis.asyncio.ConnectionPool] = []
"""Kept for good in a forked child: collected, their connections would be closed."""


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
        secrets = secrets_of(client.connection_pool.connection_kwargs)
        self._commands = StoreCommands(keys, wait_replicas, confirm_timeout, secrets)
        settings = client.connection_pool.connection_kwargs
        self._connect_hook = settings.get("redis_connect_func") or (lambda each: each.on_connect())
        settings["redis_connect_func"] = self._on_connect

    async def execute(self, request: Request) -> Reply:
        """Execute a request and return its reply. May be cancelled.

        Raises:
            StoreUnavailableError: No answer; it may have been executed.
            StoreRefusedError: Redis answered with an error, or with something else than a record.
        """
        steps = self._commands.execute(request)
        try:
            step = next(steps)
            while True:
                try:
                    reply = await self._perform(step)
                except STEP_ERRORS as exc:
                    step = steps.throw(exc)
                else:
                    step = steps.send(reply)
        except StopIteration as done:
            answer: Reply = done.value
            return answer

    def announce(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        """Let the candidate say something of itself, as the blocking store does."""
        self._commands.announcements.begin(read, every)

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

    async def _on_connect(self, connection: Any) -> None:
        """Run the connect hook; the server may be another one from now on."""
        self._commands.server_identity.connected()
        result = self._connect_hook(connection)
        if inspect.isawaitable(result):
            await result

    async def _perform(self, step: Step) -> Any:
        if isinstance(step, Block):
            return await self._block(step.request.timeout)
        pool = self._client.connection_pool
        if isinstance(step, Connect):
            return await pool.release(await pool.get_connection(*ANY_COMMAND))
        if isinstance(step, Resend):
            return await resend_after_ask_async(pool, step.error, step.commands)
        if len(step.commands) == 1:
            return [await self._client.execute_command(*step.commands[0])]
        pipeline = self._client.pipeline(transaction=False)
        for command in step.commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def _block(self, timeout: float) -> bool:
        try:
            reply = await self._waiting_client.execute_command("BLPOP", self.keys.wake, timeout)
        except redis.exceptions.AskError as exc:
            if not is_ask(exc):
                raise
            # While the slot migrates, there is nothing to block on.
            await asyncio.sleep(timeout)
            return False
        return reply is not None
