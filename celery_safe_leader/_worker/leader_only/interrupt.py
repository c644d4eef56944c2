"""Interrupts a task whose leadership is lost, in the process that runs it: ``revoke_on_loss``.

While such a task runs in a process's main thread, a background thread watches its leadership and
interrupts it by a signal, whose handler raises the error in the task. The decision is made here,
where the task runs: a signal that comes after its end reaches a handler that does nothing. A task
that does not end for an error is killed by the worker's main process: see ``kill.py``.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.leadership import Leadership
from celery_safe_leader._worker.leader_only.mark import LeaderOnlyMark
from celery_safe_leader.errors import LeadershipLostError

__all__ = ["HARD", "goes_back", "run_interruptibly"]


def _free_signals() -> tuple[int, int]:
    """Return two signals that nobody else uses; 0 twice where there are none, as on Windows.

    Those with a meaning for pools of processes (TERM, INT, QUIT, HUP, USR1) and those that people
    bind to something will not do.
    """
    last: int = getattr(signal, "SIGRTMAX", 0)
    if last:
        return last - 2, last - 3
    # macOS
    return getattr(signal, "SIGUSR2", 0), getattr(signal, "SIGXCPU", 0)


_SOFT, HARD = _free_signals()
"""The second kills a process while it runs such a task, and does nothing to it otherwise."""
_POLL = 0.02
"""Longest pause in seconds between two checks of the leadership."""


class _InterruptibleRun:
    """One run of a task that may be interrupted."""

    def __init__(self, leadership: Leadership) -> None:
        self.leadership = leadership
        self.armed = False
        """Whether the task's body is running, so that the error may be raised in it."""
        self.lost = False
        self.raised = False
        """Whether the error has been raised; it is raised once."""
        self.ended = False

    def interrupt(self) -> None:
        """Raise the error if the leadership is lost. For the main thread."""
        if self.armed and self.lost and not self.raised:
            self.raised = True
            raise self.leadership.loss()


class _Watcher:
    """Watches the leadership of the task that runs in this process, on a background thread.

    Made by the main thread. It uses no locks: the task may be interrupted at any line, even while
    it holds one.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._main = threading.get_ident()
        self._runs: SimpleQueue[_InterruptibleRun] = SimpleQueue()
        thread = threading.Thread(target=self._loop, name="leader:revoke", daemon=True)
        thread.start()

    def watch(self, run: _InterruptibleRun) -> None:
        """Watch a run until it has ended."""
        self._runs.put(run)

    def _loop(self) -> None:
        while True:
            run = self._runs.get()
            while not run.ended:
                left = run.leadership.remaining()
                if left <= 0 and not run.raised:
                    run.lost = True
                    signal.pthread_kill(self._main, _SOFT)
                time.sleep(min(left, _POLL) or _POLL)


_current: _InterruptibleRun | None = None
_watcher: _Watcher | None = None


def run_interruptibly(
    task: Any,
    mark: LeaderOnlyMark,
    leadership: Leadership,
    body: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> Any:
    """Run a task's body until it ends or the leadership is lost; return what it returns.

    Raises:
        LeadershipLostError: Leadership was lost, and the task is not to run again.
        Reject: Leadership was lost, and the message goes back to its queue for the next leader.
    """
    run = _InterruptibleRun(leadership)
    try:
        if _can_be_interrupted():
            return _watched(run, body, args, kwargs)
        return body(*args, **kwargs)
    except (Ignore, Reject, Retry):
        # The task's own decision, perhaps about this very loss.
        raise
    except Exception as exc:
        error: LeadershipLostError
        if isinstance(exc, LeadershipLostError) and exc.fencing_token == leadership.token:
            error = exc
        elif run.raised:
            # Raised by the task's clean-up.
            error = leadership.loss()
            error.__cause__ = exc
        else:
            raise
        again = goes_back(task, mark)
        logger.warning(
            "Ended %s (%s): %s. %s",
            task.name,
            task.request.id,
            error,
            "Its message goes back to its queue" if again else "It has failed",
        )
        if not again:
            raise error from error.__cause__
        _store_retry(task, error)
        raise Reject(str(error), requeue=True) from error


def goes_back(task: Any, mark: LeaderOnlyMark | None) -> bool:
    """Return whether the message of a task that lost its leadership goes back to its queue.

    It does if the task may run more than once, as ``acks_late`` says; otherwise the message has
    been acknowledged by then.
    """
    return mark is not None and mark.otherwise == "forward" and bool(task.acks_late)


def _watched(run: _InterruptibleRun, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    global _current, _watcher
    # Never reset: a signal may still be on its way when the task has ended.
    signal.signal(_SOFT, _interrupted)
    _current = run
    try:
        signal.signal(HARD, signal.SIG_DFL)
        if _watcher is None or _watcher.pid != os.getpid():
            _watcher = _Watcher()
        _watcher.watch(run)
        try:
            run.armed = True
            run.interrupt()
            return body(*args, **kwargs)
        finally:
            # If the error is raised right here, it is not raised again, and what follows is not
            # interrupted.
            run.armed = False
    finally:
        run.armed = False
        run.ended = True
        _current = None
        signal.signal(HARD, _nothing)


def _interrupted(signum: int, frame: object) -> None:
    if _current is not None:
        _current.interrupt()


def _nothing(signum: int, frame: object) -> None:
    """Do nothing: the task for which the signal was sent has ended."""


def _can_be_interrupted() -> bool:
    # Signal handlers run in the main thread; a greenlet is not a thread of its own.
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_kill")


def _store_retry(task: Any, error: LeadershipLostError) -> None:
    """Store in the result why the task will run again, as Celery does for a retry."""
    request = task.request
    if request.ignore_result or task.ignore_result:
        return
    try:
        task.backend.mark_as_retry(request.id, error, request=request)
    except Exception as exc:
        logger.warning(
            "The result of %s (%s) could not be marked as a retry: %r", task.name, request.id, exc
        )
