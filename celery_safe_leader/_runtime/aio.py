"""Drives a candidate from asyncio tasks: one talks to Redis, one calls listeners."""

from __future__ import annotations

import asyncio
import contextlib
import inspect

from celery_safe_leader._core.events import DemotionReason, Event
from celery_safe_leader._core.messages import Await, Leave, Reply, Request
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.ports import AsyncStore
from celery_safe_leader._core.state import State
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.clock import Clock
from celery_safe_leader._runtime.listeners import Listener
from celery_safe_leader._runtime.teller import PATIENCE, WaitingEvents

__all__ = ["AsyncRunner"]

_of_the_parent: list[object] = []
"""In a forked child: tasks of the parent's loop, which would run to their end if collected."""


class AsyncRunner:
    """Runs one candidate on the event loop that calls ``elect()``.

    If its tasks are cancelled, as ``asyncio.run()`` does in the end, it resigns. If its loop ended
    without that, the next verb, which is on another loop, finds it idle.
    """

    def __init__(
        self, options: Options, name: str, store: AsyncStore, *, clock: Clock | None = None
    ) -> None:
        """Make an idle runner: no task, no IO."""
        self._store = store
        self._reset()
        self._untold = WaitingEvents()
        self.candidate = Candidate(
            options, name, deliver=self._enqueue, clock=clock, reset=self._after_fork
        )

    def _after_fork(self) -> None:
        _of_the_parent.append((self._task, self._listener_task, self._listening, self._request))
        self._reset()
        self._untold = WaitingEvents()
        self._store.after_fork()

    def _reset(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._listener_task: asyncio.Task[None] | None = None
        self._listening: asyncio.Future[object] | None = None
        """The listener that is being called, if it is a coroutine."""
        self._request: asyncio.Future[Reply] | None = None
        self._is_away = False
        """Whether Redis did not answer the last request."""
        self._closing: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._wake, self._news = asyncio.Event(), asyncio.Event()

    def elect(self) -> None:
        """Take part in the election. Call it on the event loop."""
        self.leave_ended_loop()
        self.candidate.start()
        self._loop = loop = asyncio.get_running_loop()
        name = f"leader:{self.candidate.name}"
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(loop), name=name)
            self._task.add_done_callback(self._ran)
        # What is left of an earlier tenure is told by the same task, before what comes now.
        if self._listener_task is None or self._listener_task.done():
            told = self._call_listeners(loop)
            self._listener_task = asyncio.create_task(told, name=f"{name}:events")
            self._listener_task.add_done_callback(self._all_told)
        self._wake.set()

    def leave_ended_loop(self) -> None:
        """Take no part any more if the loop does not run on which this candidate did."""
        loop = self._loop
        if loop is None or loop is asyncio.get_running_loop() or loop.is_running():
            return
        self._reset()
        self._store.after_fork()  # its connections belong to that loop
        self.candidate.abandon(DemotionReason.RESIGNED)

    async def stop(self, reason: DemotionReason, timeout: float) -> None:
        """Stop taking part; leadership ends before the first await."""
        self.leave_ended_loop()
        await self._resigned(self.candidate.stop(reason), timeout)

    async def _resigned(self, awaiting: Await | None, timeout: float) -> None:
        if awaiting is not None and self._request is not None:
            await _cancel(self._request)
        self._wake.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=timeout)

    async def shutdown(self, timeout: float) -> None:
        """Stop taking part, and end for good; leadership ends before the first await.

        Every call returns at the end of the first one. Only a listener does not wait for it, since
        it waits for listeners.
        """
        self.leave_ended_loop()
        awaiting = self.candidate.stop(DemotionReason.SHUTDOWN)
        in_listener = self._is_in_listener()
        if self._closing is None or self._closing.cancelled():
            self._closing = asyncio.create_task(
                self._shut_down(awaiting, timeout, in_listener=in_listener),
                name=f"leader:{self.candidate.name}:shutdown",
            )
        elif in_listener:
            return
        # Not cancelled with who waits for it: that would tear the handover.
        await asyncio.shield(self._closing)

    async def _shut_down(
        self, awaiting: Await | None, timeout: float, *, in_listener: bool
    ) -> None:
        await self._resigned(awaiting, timeout)
        self.candidate.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._listener_task is not None:
            # Listeners get the events that are left; one that calls us is not waited for.
            self._news.set()
            if not in_listener:
                await asyncio.wait({self._listener_task}, timeout=self.candidate.options.ttl)
        await self._store.close()

    def _is_in_listener(self) -> bool:
        present = asyncio.current_task()
        return present is not None and present in (self._listener_task, self._listening)

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._loop is loop and self.candidate.state not in (State.IDLE, State.CLOSED):
                try:
                    await self._step()
                except Exception:
                    # The loop must not die silently: whatever this was, the next step may work.
                    name = self.candidate.name
                    logger.exception("Election %r: unexpected error; continuing", name)
                    await self._sleep(self.candidate.options.wait)
                await self._leave()
        except asyncio.CancelledError:
            if self._loop is loop:
                await self._resign_while_cancelled()
            raise

    def _ran(self, task: asyncio.Task[None]) -> None:
        # A callback: a task that is cancelled before its first step runs nothing of its own.
        if task is not self._task:
            return  # that loop was left
        self._task = None
        if self.candidate.state not in (State.IDLE, State.CLOSED):
            self.candidate.abandon(DemotionReason.RESIGNED)
        self._news.set()
        self._notify()

    def _all_told(self, task: asyncio.Task[None]) -> None:
        if task is not self._listener_task:
            return
        self._listener_task = None
        if task.cancelled() and self._task is not None:
            self._task.cancel()  # nobody is told of anything any more: so nobody leads

    async def _resign_while_cancelled(self) -> None:
        """Hand over as ``stop()`` does; if there is no time for it, leave the election at once."""
        try:
            self.candidate.stop(DemotionReason.RESIGNED)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._finish_resigning(), self._patience)
            await self._store.close()  # this loop is likely to end
        finally:
            self.candidate.abandon(DemotionReason.RESIGNED)

    async def _finish_resigning(self) -> None:
        while self.candidate.state is State.RESIGNING:
            await self._step()
        await self._leave()

    async def _leave(self) -> None:
        """Take the candidate off the list of those that take part, if it does no more."""
        if self.candidate.state is not State.IDLE or self._is_away:
            return
        try:
            await self._store.execute(Leave(self.candidate.clock.now()))
        except Exception as exc:
            # For people alone; after three ttls they are told that it says nothing any more.
            logger.debug("Election %r: still listed: %s", self.candidate.name, exc)

    @property
    def _patience(self) -> float:
        return self.candidate.options.request_timeout

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
            self.candidate.drop(request)
            raise
        finally:
            if self._request is task:
                self._request = None
        if task.cancelled():
            self.candidate.drop(request)  # by stop(), or from outside
            return
        error = task.exception()
        if error is None:
            self._is_away = False
            self.candidate.receive(request, task.result())
        elif isinstance(error, Exception):
            self._is_away = self._is_away or not isinstance(request, Await)
            self.candidate.failed(request, error)
        else:
            # It has ended the loop already, and may be code of the user's that exits.
            self.candidate.failed(request, RuntimeError(f"raised {error!r}"))

    async def _sleep(self, seconds: float | None) -> None:
        self._wake.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wake.wait(), seconds)

    def _enqueue(self, events: list[Event]) -> None:
        for event in events:
            self._untold.add(event)
        self._news.set()
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
        try:
            await waiter
        finally:
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)  # one that gave up

    async def _call_listeners(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._tell_all(loop)
        except asyncio.CancelledError:
            if self._loop is loop:
                # Nobody is told of anything any more: so nobody leads any more. That is told.
                if self._task is not None:
                    self._task.cancel()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._tell_all(loop), 2 * self._patience)
            raise

    async def _tell_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell events, and notice the end of the lease, until this candidate takes no part."""
        while self._loop is loop:
            if len(self._untold):
                await self._tell(self._untold.pop())
                continue
            if self._task is None:
                return
            left = self.candidate.tick()
            self._news.clear()
            if not len(self._untold):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), left)

    async def _tell(self, event: Event) -> None:
        if not self.candidate.has_listeners(event):
            self.candidate.log_unheard(event)
        for listener, argument in self.candidate.listener_calls(event):
            await self._call(listener, argument)

    async def _call(self, listener: Listener, argument: Event | Exception) -> None:
        kind = type(argument).__name__.lower()
        try:
            result = listener(argument)
        except BaseException as exc:
            self._log_failure(kind, exc)
            if isinstance(exc, (SystemExit, KeyboardInterrupt)):
                # As in any task, this ends the loop; but not the telling, should the loop go on.
                asyncio.get_running_loop().call_later(0.0, _raise, exc)
            return
        if not inspect.isawaitable(result):
            return
        # A task of its own: so it is known who was cancelled, the listener or we.
        call = asyncio.ensure_future(result)
        error = await self._ended(call, listener, kind)
        if error is not None:
            self._log_failure(kind, error)

    async def _ended(
        self, call: asyncio.Future[object], listener: Listener, kind: str
    ) -> BaseException | None:
        """Wait for a listener, and say once if it takes long; return what it raised."""
        loop, self._listening = asyncio.get_running_loop(), call
        say_at: float | None = loop.time() + PATIENCE
        try:
            while not call.done():
                waits = [self.candidate.tick(), None if say_at is None else say_at - loop.time()]
                shortest = min((max(0.0, w) for w in waits if w is not None), default=None)
                await asyncio.wait({call}, timeout=shortest)
                if say_at is not None and loop.time() >= say_at and not call.done():
                    say_at = None
                    self._say_slow(call, listener, kind)
        except asyncio.CancelledError:
            call.cancel()
            raise
        finally:
            if self._listening is call:
                self._listening = None
        return asyncio.CancelledError("cancelled") if call.cancelled() else call.exception()

    def _say_slow(self, call: asyncio.Future[object], listener: Listener, kind: str) -> None:
        frames = call.get_stack(limit=1) if isinstance(call, asyncio.Task) else []
        logger.warning(
            "Election %r: %s%s has not returned for %g s since it was told %s. Later events are "
            "told after it; nothing else waits for it",
            self.candidate.name,
            getattr(listener, "__qualname__", repr(listener)),
            f" ({frames[0].f_code.co_filename}:{frames[0].f_lineno})" if frames else "",
            PATIENCE,
            kind,
        )

    def _log_failure(self, kind: str, error: BaseException) -> None:
        name = self.candidate.name
        logger.error("Election %r: a listener of %s failed", name, kind, exc_info=error)


def _raise(error: BaseException) -> None:
    raise error


async def _cancel(request: asyncio.Future[Reply]) -> None:
    """Cancel a request until it has ended: redis-py may swallow a cancellation while connecting."""
    while not request.done():
        request.cancel()
        await asyncio.wait({request}, timeout=0.02)
    if not request.cancelled():
        request.exception()  # otherwise asyncio complains that nobody retrieved it
