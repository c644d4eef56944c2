"""Drives a candidate from asyncio tasks: one talks to Redis, one calls listeners."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging

from celery_safe_leader._core.events import DemotionReason, Event
from celery_safe_leader._core.messages import Reply, Request
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.ports import AsyncStore
from celery_safe_leader._core.state import State
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.clock import Clock
from celery_safe_leader._runtime.listeners import Listener

__all__ = ["AsyncRunner"]

logger = logging.getLogger("celery_safe_leader")
_of_the_parent: list[object] = []
"""In a forked child: tasks of the parent's loop, which would run to their end if collected."""


class AsyncRunner:
    """Runs one candidate on the event loop that calls ``elect()``."""

    def __init__(
        self, options: Options, name: str, store: AsyncStore, *, clock: Clock | None = None
    ) -> None:
        """Make an idle runner: no task, no IO."""
        self._store = store
        self._reset()
        self.candidate = Candidate(
            options, name, deliver=self._enqueue, clock=clock, reset=self._after_fork
        )

    def _after_fork(self) -> None:
        _of_the_parent.append((self._task, self._listener_task, self._request))
        self._reset()
        self._store.after_fork()

    def _reset(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._listener_task: asyncio.Task[None] | None = None
        self._request: asyncio.Future[Reply] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    def elect(self) -> None:
        """Take part in the election. Call it on the event loop."""
        asyncio.get_running_loop()
        self.candidate.start()
        if self._task is None:
            name = f"leader:{self.candidate.name}"
            self._events = asyncio.Queue()
            self._listener_task = asyncio.create_task(
                self._call_listeners(self._events), name=f"{name}:events"
            )
            self._task = asyncio.create_task(self._run(), name=name)
        self._wake.set()

    async def stop(self, reason: DemotionReason, timeout: float) -> None:
        """Stop taking part; leadership ends before the first await."""
        awaiting = self.candidate.stop(reason)
        if awaiting is not None and self._request is not None:
            await _cancel(self._request)
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)

    async def close(self) -> None:
        """End for good."""
        self.candidate.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._listener_task is not None:
            # Listeners get the events that are left; one that calls us is not waited for.
            self._events.put_nowait(None)
            if self._listener_task is not asyncio.current_task():
                await asyncio.wait({self._listener_task}, timeout=self.candidate.options.ttl)
        await self._store.close()

    async def _run(self) -> None:
        try:
            while self.candidate.state not in (State.IDLE, State.CLOSED):
                try:
                    await self._step()
                except Exception:
                    # The loop must not die silently: whatever this was, the next step may work.
                    name = self.candidate.name
                    logger.exception("Election %r: unexpected error; continuing", name)
                    await self._sleep(self.candidate.options.wait)
        finally:
            self._task = None
            self._events.put_nowait(None)
            self._notify()

    async def _step(self) -> None:
        request = self.candidate.poll()
        if request is None:
            if self.candidate.state not in (State.IDLE, State.CLOSED):
                await self._sleep(self.candidate.pause())
            return
        await self._execute(request)
        self._notify()

    async def _execute(self, request: Request) -> None:
        # A separate task, so that stop() can cancel a blocking read.
        task = asyncio.ensure_future(self._store.execute(request))
        self._request = task
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await _cancel(task)
            raise
        finally:
            self._request = None
        if task.cancelled():
            return  # by stop(), which dropped the request
        error = task.exception()
        if error is None:
            self.candidate.receive(request, task.result())
        elif isinstance(error, Exception):
            self.candidate.failed(request, error)
        else:
            raise error

    async def _sleep(self, seconds: float | None) -> None:
        self._wake.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _enqueue(self, events: list[Event]) -> None:
        for event in events:
            self._events.put_nowait(event)
        self._notify()

    def _notify(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        """Wait until something may have changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def _call_listeners(self, events: asyncio.Queue[Event | None]) -> None:
        left: float | None = None
        while True:
            try:
                event = await asyncio.wait_for(events.get(), left)
            except asyncio.TimeoutError:
                left = self.candidate.tick()
                continue
            if event is None:
                return
            for listener, argument in self.candidate.listener_calls(event):
                await self._call(listener, argument)
            left = self.candidate.tick()

    async def _call(self, listener: Listener, argument: Event | Exception) -> None:
        try:
            result = listener(argument)
            if inspect.isawaitable(result):
                await result
        except Exception:
            kind = type(argument).__name__.lower()
            logger.exception("Election %r: a listener of %s failed", self.candidate.name, kind)


async def _cancel(request: asyncio.Future[Reply]) -> None:
    """Cancel a request until it has ended: redis-py may swallow a cancellation while connecting."""
    while not request.done():
        request.cancel()
        await asyncio.wait({request}, timeout=0.02)
    if not request.cancelled():
        request.exception()  # otherwise asyncio complains that nobody retrieved it
