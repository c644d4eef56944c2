"""The election by itself, for asyncio: ``create_async_safe_redis_leader``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any

from celery_safe_leader._core.events import DemotionReason
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import State
from celery_safe_leader._runtime.aio import AsyncRunner
from celery_safe_leader._runtime.views import LeaderViews
from celery_safe_leader._store.aio import AsyncRedisStore
from celery_safe_leader._store.connection.client import Source, make_async_client
from celery_safe_leader._store.keys import ElectionKeys, checked_key
from celery_safe_leader.errors import LifecycleError

__all__ = ["AsyncSafeLeader", "create_async_safe_redis_leader"]


class AsyncSafeLeader(LeaderViews):
    """One candidate of one election, on one event loop.

    The views are safe from any thread; everything else belongs to the loop. In a forked child the
    object is an idle candidate with an id of its own. As an async context manager it takes part
    on entry and is shut down on exit. Listeners may be coroutine functions.
    """

    def __init__(self, runner: AsyncRunner) -> None:
        """Wrap a runner; use ``create_async_safe_redis_leader``."""
        super().__init__(runner.candidate)
        self._runner = runner

    async def elect(self) -> None:
        """Take part in the election from now on. Returns at once.

        Raises:
            LifecycleError: It takes part already, or it was shut down.
        """
        self._runner.elect()

    async def stop(self, *, timeout: float | None = None) -> None:
        """Take part no longer, and hand leadership over if it is held.

        Leadership ends before anything is sent. ``elect()`` may follow.

        Args:
            timeout: Seconds to wait until Redis has the resignation; a third of the ttl by
                default. Without it the others take over when the lease runs out.
        """
        await self._stop(DemotionReason.RESIGNED, timeout)

    async def shutdown(self, *, timeout: float | None = None) -> None:
        """Stop for good: as ``stop()``, then close the connections. May be called twice."""
        await self._stop(DemotionReason.SHUTDOWN, timeout)
        await self._runner.close()

    async def _stop(self, reason: DemotionReason, timeout: float | None) -> None:
        limit = self._candidate.options.request_timeout if timeout is None else timeout
        await self._runner.stop(reason, limit)

    async def wait_until_leader(self, timeout: float | None = None) -> int:
        """Wait until this candidate leads.

        Args:
            timeout: Seconds to wait, at least 0. ``None`` waits without limit.

        Returns:
            The fencing token: higher than that of every earlier leader of this key.

        Raises:
            TimeoutError: Not elected within ``timeout``; still a candidate.
            LifecycleError: It takes no part in the election, or no longer.
        """
        token = self._token_or_refusal()
        if token is not None:
            # wait_for() with a timeout of 0 would not even let the answer out that is there.
            return token
        try:
            return await asyncio.wait_for(self._elected(), timeout)
        except asyncio.TimeoutError:
            message = f"not elected leader of {self.key!r} within {timeout:g} s"
            raise TimeoutError(message) from None

    async def _elected(self) -> int:
        while True:
            token = self._token_or_refusal()
            if token is not None:
                return token
            await self._runner.change()

    def _token_or_refusal(self) -> int | None:
        token = self.fencing_token
        if token is None and self._candidate.state in (State.IDLE, State.CLOSED):
            raise LifecycleError(f"{self.key!r} takes no part in the election: call elect()")
        return token

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
    """Make a candidate for asyncio. Does no IO and starts no task: that is ``elect()``.

    Arguments and errors are those of ``create_safe_redis_leader``; a client may be of either side.
    """
    checked = Options(ttl, wait, wait_replicas, allow_long_ttl=allow_long_ttl)
    keys = ElectionKeys(checked_key(key))
    limit = checked.request_timeout
    client, waiting_client = (
        make_async_client(
            redis, options or {}, connect_timeout=limit, read_timeout=read, key=keys.lease
        )
        for read in (limit, checked.wait + limit)
    )
    store = AsyncRedisStore(
        client,
        waiting_client,
        keys,
        wait_replicas=checked.wait_replicas,
        confirm_timeout=checked.confirm_timeout,
    )
    return AsyncSafeLeader(AsyncRunner(checked, keys.election, store))
