"""Ends a task whose leadership is lost, in the process that runs it: ``revoke_on_loss``.

While such a task runs in a process's main thread, a thread looks after its leadership and
interrupts it by a signal, whose handler raises the error in the task. All is decided here, where
the task runs: a signal that comes when it has ended meets a handler that does nothing. What does
not end for an error is ended by the worker's main process: see ``endings``.
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

__all__ = ["HARD", "hand_back", "run_revocably"]

# Signals that nobody else uses, where there are such: those that have a meaning for pools of
# processes (TERM, INT, QUIT, HUP, USR1) and those that people bind to something do not do.
_SOFT: int = getattr(signal, "SIGRTMAX", signal.SIGUSR2 + 2) - 2
HARD: int = _SOFT - 1
"""Ends a process while it runs such a task, and does nothing to it otherwise."""
if not hasattr(signal, "SIGRTMAX"):  # macOS
    _SOFT, HARD = signal.SIGUSR2, signal.SIGXCPU
_GLANCE = 0.02
"""Seconds between two looks at the leadership, beside its deadline."""


class _InterruptibleRun:
    """One run of a task."""

    def __init__(self, leadership: Leadership) -> None:
        self.leadership = leadership
        self.armed = False
        """Whether the task's body runs, so that an error may be raised."""
        self.lost = False
        self.struck = False
        """Whether the error was raised: once."""
        self.ended = False

    def strike(self) -> None:
        """Raise the error, in the main thread."""
        if self.armed and self.lost and not self.struck:
            self.struck = True
            raise self.leadership.loss()


class _Watcher:
    """Looks after what runs in this process, on a thread of its own.

    Made by the main thread. Without locks: the task may be interrupted at any line, while it holds
    one, too.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._main = threading.get_ident()
        self._runs: SimpleQueue[_InterruptibleRun] = SimpleQueue()
        thread = threading.Thread(target=self._loop, name="leader:revoke", daemon=True)
        thread.start()

    def watch(self, run: _InterruptibleRun) -> None:
        """Look after it until it has ended."""
        self._runs.put(run)

    def _loop(self) -> None:
        while True:
            run = self._runs.get()
            while not run.ended:
                left = run.leadership.remaining()
                if left <= 0 and not run.struck:
                    run.lost = True
                    signal.pthread_kill(self._main, _SOFT)
                time.sleep(min(left, _GLANCE) or _GLANCE)


_current: _InterruptibleRun | None = None
_watcher: _Watcher | None = None


def run_revocably(
    task: Any,
    rules: LeaderOnlyMark,
    leadership: Leadership,
    body: Callable[..., Any],
    args: Any,
    kwargs: Any,
) -> Any:
    """Run a task's body until it ends, or until the leadership is lost.

    Raises:
        LeadershipLostError: It was lost, and the task is not to run again.
        Reject: It was lost, and the message goes back to its queue for the next leader.
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
        elif run.struck:
            # What its cleaning up raised.
            error = leadership.loss()
            error.__cause__ = exc
        else:
            raise
        again = hand_back(task, rules)
        logger.warning(
            "Ended %s (%s): %s. %s",
            task.name,
            task.request.id,
            error,
            "Its message goes back to its queue" if again else "It has failed",
        )
        if not again:
            raise error from error.__cause__
        _note(task, error)
        raise Reject(str(error), requeue=True) from error


def hand_back(task: Any, rules: LeaderOnlyMark | None) -> bool:
    """Tell whether the message of a task that lost its leadership goes back to its queue.

    Only that of a task that may run more than once, as ``acks_late`` says; else it is
    acknowledged by then.
    """
    return rules is not None and rules.otherwise == "forward" and bool(task.acks_late)


def _watched(run: _InterruptibleRun, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    global _current, _watcher
    # Kept for good: a signal may still be on its way when the task has ended.
    signal.signal(_SOFT, _interrupted)
    _current = run
    try:
        signal.signal(HARD, signal.SIG_DFL)
        if _watcher is None or _watcher.pid != os.getpid():
            _watcher = _Watcher()
        _watcher.watch(run)
        try:
            run.armed = True
            run.strike()
            return body(*args, **kwargs)
        finally:
            # If the error is raised just here, it is raised no second time, and what follows
            # is not interrupted.
            run.armed = False
    finally:
        run.armed = False
        run.ended = True
        _current = None
        signal.signal(HARD, _nothing)


def _interrupted(signum: int, frame: object) -> None:
    if _current is not None:
        _current.strike()


def _nothing(signum: int, frame: object) -> None:
    """Nothing: the task that was meant has ended."""


def _can_be_interrupted() -> bool:
    # Handlers run in the main thread; a greenlet, which is none, may be any where.
    return threading.current_thread() is threading.main_thread() and hasattr(signal, "pthread_kill")


def _note(task: Any, error: LeadershipLostError) -> None:
    """Show in the result why the task will run again, as Celery does for a retry."""
    request = task.request
    if request.ignore_result or task.ignore_result:
        return
    try:
        task.backend.mark_as_retry(request.id, error, request=request)
    except Exception as exc:
        logger.warning("The result of %s (%s) was not marked: %r", task.name, request.id, exc)
