"""The stand-alone election for asyncio: ``create_async_safe_redis_leader``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from celery_safe_leader._core.events import DemotionReason
from celery_safe_leader._core.options import Options
from celery_safe_leader._runtime.aio import AsyncRunner
from celery_safe_leader._runtime.views import LeaderViews
from celery_safe_leader._store.aio import AsyncRedisStore
from celery_safe_leader._store.connection.client import (
    Source,
    make_async_client,
    make_store_clients,
)
from celery_safe_leader._store.keys import ElectionKeys, checked_key

__all__ = ["AsyncSafeLeader", "create_async_safe_redis_leader"]


class AsyncSafeLeader(LeaderViews):
    """One candidate of one election, on one event loop.

    Properties are safe from any thread; everything else belongs to the loop. If the loop ends, or
    cancels the tasks of this candidate, it takes no part any more: ``elect()`` may follow, on
    another loop too. In a forked child the object is an idle candidate with an id of its own. As
    an async context manager it takes part on entry and is shut down on exit. Listeners may be
    coroutine functions.
    """

    def __init__(self, runner: AsyncRunner) -> None:
        """Use ``create_async_safe_redis_leader`` instead."""
        super().__init__(runner.candidate)
        self._runner = runner

    async def elect(self) -> None:
        """Take part in the election from now on. Does not block.

        Raises:
            LifecycleError: It takes part already, or was shut down.
        """
        self._runner.elect()

    async def stop(self, *, timeout: float | None = None) -> None:
        """Stop taking part, and hand leadership over if it is held, as ``SafeLeader.stop()``."""
        await self._runner.stop(DemotionReason.RESIGNED, self._handover_timeout(timeout))

    async def shutdown(self, *, timeout: float | None = None) -> None:
        """Do what ``stop()`` does, then close the connections for good.

        May be called again: each call returns when the first one is done. If its caller is
        cancelled, it goes on.
        """
        await self._runner.shutdown(self._handover_timeout(timeout))

    async def wait_until_leader(self, timeout: float | None = None) -> int:
        """Wait until this candidate leads, as ``SafeLeader.wait_until_leader()``.

        Returns:
            The fencing token.

        Raises:
            TimeoutError: Not elected within ``timeout``; still a candidate.
            LifecycleError: It does not take part in the election, or no longer.
        """
        self._runner.leave_ended_loop()
        token = self._token_if_leader()
        if token is not None:
            # wait_for() with a timeout of 0 would not return even an answer that is there.
            return token
        try:
            return await asyncio.wait_for(self._elected(), timeout)
        except asyncio.TimeoutError:
            raise self._not_elected(timeout or 0.0) from None

    async def _elected(self) -> int:
        while True:
            token = self._token_if_leader()
            if token is not None:
                return token
            await self._runner.change()

    async def __aenter__(self) -> AsyncSafeLeader:
        await self.elect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.shutdown()


def create_async_safe_redis_leader(
    *,
    redis: Source,
    key: str,
    ttl: float | timedelta,
    wait: float | timedelta | None = None,
    wait_replicas: int = 0,
    allow_long_ttl: bool = False,
    options: Mapping[str, Any] | None = None,
) -> AsyncSafeLeader:
    """Make a candidate for asyncio. Does no IO and starts no task before ``elect()``.

    Arguments and errors are those of ``create_safe_redis_leader``; a client may be of either side.
    """
    checked = Options(ttl, wait, wait_replicas, allow_long_ttl=allow_long_ttl)
    keys = ElectionKeys(checked_key(key))
    store = AsyncRedisStore(
        *make_store_clients(make_async_client, redis, options or {}, checked, keys),
        keys,
        wait_replicas=checked.wait_replicas,
        confirm_timeout=checked.confirm_timeout,
    )
    runner = AsyncRunner(checked, keys.election, store)
    store.announce(runner.candidate.presence, checked.ttl)
    return AsyncSafeLeader(runner)
