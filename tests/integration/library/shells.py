"""One face for both libraries, so that one test speaks of both."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from celery_safe_leader import (
    AsyncSafeLeader,
    create_async_safe_redis_leader,
    create_safe_redis_leader,
)
from celery_safe_leader._runtime.views import LeaderViews

__all__ = ["SHELLS", "AsyncioShell", "BlockingShell", "Shell"]

T = TypeVar("T")
SHELLS = ("blocking", "asyncio")


class Shell:
    """A candidate, its events, and blocking verbs."""

    leader: LeaderViews

    def __init__(self) -> None:
        self.events: list[tuple[str, Any, float]] = []
        """Name, what the listener was given, and ``time.monotonic()``."""

    def listen(self) -> None:
        """Note every event."""
        for name in ("elected", "demoted", "new_leader", "error"):
            self.leader.on(name, self._listener(name))

    def _listener(self, name: str) -> Callable[[Any], None]:
        return lambda event: self.events.append((name, event, time.monotonic()))

    def named(self, name: str) -> list[Any]:
        """Return what came under a name."""
        return [event for said, event, _ in list(self.events) if said == name]

    def elect(self) -> None:
        raise NotImplementedError

    def stop(self, *, timeout: float | None = None) -> None:
        raise NotImplementedError

    def shutdown(self, *, timeout: float | None = None) -> None:
        raise NotImplementedError

    def wait_until_leader(self, timeout: float | None = None) -> int:
        raise NotImplementedError

    def enter(self) -> Any:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End it whatever state it is in."""
        self.shutdown()


class BlockingShell(Shell):
    """``create_safe_redis_leader``."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._leader = create_safe_redis_leader(**options)
        self.leader = self._leader
        self.elect = self._leader.elect  # type: ignore[method-assign]
        self.stop = self._leader.stop  # type: ignore[method-assign]
        self.shutdown = self._leader.shutdown  # type: ignore[method-assign]
        self.wait_until_leader = self._leader.wait_until_leader  # type: ignore[method-assign]
        self.enter = self._leader.__enter__  # type: ignore[method-assign]
        self.listen()

    def leave(self) -> None:
        self._leader.__exit__(None, None, None)


class AsyncioShell(Shell):
    """``create_async_safe_redis_leader``, on an event loop in a thread of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_debug(True)
        self._thread = threading.Thread(target=self.loop.run_forever, name="loop", daemon=True)
        self._thread.start()
        try:
            self._leader: AsyncSafeLeader = create_async_safe_redis_leader(**options)
        except BaseException:
            self._end_loop()
            raise
        self.leader = self._leader
        self.listen()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, awaitable: Awaitable[T]) -> T:
        """Run something on the loop and wait for it."""

        async def wait() -> T:
            return await awaitable

        return self.submit(wait()).result(30)

    def elect(self) -> None:
        self.run(self._leader.elect())

    def stop(self, *, timeout: float | None = None) -> None:
        self.run(self._leader.stop(timeout=timeout))

    def shutdown(self, *, timeout: float | None = None) -> None:
        self.run(self._leader.shutdown(timeout=timeout))

    def wait_until_leader(self, timeout: float | None = None) -> int:
        return self.run(self._leader.wait_until_leader(timeout))

    def enter(self) -> Any:
        return self.run(self._leader.__aenter__())

    def leave(self) -> None:
        self.run(self._leader.__aexit__(None, None, None))

    def tasks(self) -> list[str]:
        """Name the tasks that run on the loop, this question's left out."""

        async def name() -> list[str]:
            present = asyncio.current_task()
            return [task.get_name() for task in asyncio.all_tasks() if task is not present]

        # The wrapper of run() would count too.
        return self.submit(name()).result(5)

    def close(self) -> None:
        if not self.loop.is_closed():
            super().close()
            self._end_loop()

    def _end_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)
        self.loop.close()
