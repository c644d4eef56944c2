"""The guard at execution: a leader-only task runs only while its worker leads.

Celery calls the body of a task without a message of its own in two places: ``celery.map`` and
``celery.starmap``, the tasks behind ``.map()``, ``.starmap()`` and ``.chunks()``, and error
callbacks with more than one argument. Both are guarded, too. Calls in the code of users,
``apply()`` and eager mode are not.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery._state import get_current_task
from celery.app.task import Context
from celery.exceptions import Ignore

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only import leadership as leadership_module
from celery_safe_leader._worker.leader_only.interrupt import run_interruptibly
from celery_safe_leader._worker.leader_only.leadership import (
    CURRENT,
    LEADERSHIP,
    Leadership,
    LeadershipReader,
    reader_of,
)
from celery_safe_leader._worker.leader_only.mark import MARK, LeaderOnlyMark, mark_of
from celery_safe_leader._worker.leader_only.queue import brought, declaration
from celery_safe_leader.errors import NotLeaderError

__all__ = [
    "FORWARDS",
    "MAPS",
    "forwards_of",
    "guard_maps",
    "guarded",
    "mapped_mark",
    "mark_of_run",
    "runs_leader_only",
]

MAPS = ("celery.map", "celery.starmap")
"""Celery's tasks that call another one for each item; ``.chunks()`` is made of them."""
_GUARDS_MAPS = "__guards_maps__"
FORWARDS = "leader_forwards"
"""Header: how often a message was forwarded to the leader queue."""
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a message that was forwarded before is forwarded again."""
_ALARMING = 10
"""From so many forwards on, something must be wrong."""
_MOST_FORWARDS = 1_000_000
"""More than any message can reach."""


def guarded(body: Callable[..., Any], mark: LeaderOnlyMark) -> Callable[..., Any]:
    """Return a task's body wrapped so that it runs only while its worker leads.

    Eager runs and direct calls, as in tests, are not guarded: they came by no broker.
    """

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        task = get_current_task()
        if task is None or mark_of(task) is not mark:
            return body(*args, **kwargs)
        request = task.request
        if not request.called_directly:
            return _run_guarded(task, request, mark, body, args, kwargs)
        failed = args[0] if args else None
        if isinstance(failed, Context):
            return _run_error_callback(task, failed, body, args, kwargs)
        return _run_guarded(task, _message_below(task), mark, body, args, kwargs)

    setattr(run, MARK, mark)
    # As Celery reads it, to check the arguments of a call before anything is sent.
    with contextlib.suppress(TypeError, ValueError):
        run.__signature__ = inspect.signature(  # type: ignore[attr-defined]
            body, follow_wrapped=False
        )
    return run


def guard_maps(app: Any) -> None:
    """Guard the tasks behind ``.map()``, ``.starmap()`` and ``.chunks()`` of leader-only tasks."""
    for name in MAPS:
        task = app.tasks.get(name)
        if task is not None and not hasattr(task.run, _GUARDS_MAPS):
            task.run = _guarded_map(task, task.run)


def mapped_mark(app: Any, args: Any, kwargs: Any) -> LeaderOnlyMark | None:
    """Return the mark of the task that a call of ``celery.map`` or the like is about."""
    signature = args[0] if args else kwargs.get("task")
    name = signature.get("task") if isinstance(signature, Mapping) else None
    return mark_of(app.tasks.get(name)) if isinstance(name, str) else None


def runs_leader_only(request: Any) -> bool:
    """Return whether a worker's request runs a leader-only task, itself or for each item."""
    return mark_of_run(request) is not None


def mark_of_run(request: Any) -> LeaderOnlyMark | None:
    """Return the mark of what a worker's request runs, itself or for each item."""
    task = request.task
    if task.name in MAPS:
        return mapped_mark(task.app, request.args, request.kwargs)
    return mark_of(task)


def _guarded_map(task: Any, body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        mark = mapped_mark(task.app, args, kwargs)
        if mark is None or get_current_task() is not task or task.request.called_directly:
            return body(*args, **kwargs)
        return _run_guarded(task, task.request, mark, body, args, kwargs)

    setattr(run, _GUARDS_MAPS, True)
    return run


def _message_below(task: Any) -> Any:
    """Return the request from a broker during which a task was called directly, if there is one.

    A ``__call__`` of the user's own may call the body again, such as after an error.
    """
    found = [each for each in task.request_stack.stack if not each.called_directly]
    return found[-1] if found and CURRENT.get() is None else None


def _run_guarded(
    task: Any, request: Any, mark: LeaderOnlyMark, body: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    if request is None or request.is_eager:
        return _run_unguarded(task, body, args, kwargs)
    reader = reader_of(task.app)
    leadership = _leadership(reader)
    if leadership is None:
        return _elsewhere(task, request, reader, mark)
    # Handlers such as on_success are called after the body, with the same request.
    setattr(request, LEADERSHIP, leadership)
    with _Under(leadership):
        if mark.revoke_on_loss:
            return run_interruptibly(task, mark, leadership, body, args, kwargs)
        return body(*args, **kwargs)


def _run_unguarded(task: Any, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a body that came by no broker; in a test that grants leadership, under that."""
    if leadership_module.granted is None or CURRENT.get() is not None:
        return body(*args, **kwargs)
    leadership = _leadership(reader_of(task.app))
    if leadership is None:
        return body(*args, **kwargs)
    with _Under(leadership):
        return body(*args, **kwargs)


def _run_error_callback(
    task: Any, failed: Any, body: Callable[..., Any], args: Any, kwargs: Any
) -> Any:
    """Run a task that Celery calls in the process of another one that failed, if this one leads.

    It cannot be forwarded: its arguments are a request, an error and a traceback.
    """
    if failed.is_eager:
        return body(*args, **kwargs)
    leadership = _leadership(reader_of(task.app))
    if leadership is not None:
        with _Under(leadership):
            return body(*args, **kwargs)
    logger.error(
        "Did not run %s, the error callback of %s (%s): it is leader-only, and this worker is not "
        "the leader. Give it one argument, the id of the failed task, or bind=True: then it is "
        "sent to the leader queue",
        task.name,
        failed.task,
        failed.id,
    )
    return None


def _leadership(reader: LeadershipReader) -> Leadership | None:
    found = reader.read()
    return None if found is None else Leadership(reader, found[0], found[1].fencing_token)


class _Under:
    """A context in which a leadership is the current one."""

    # A generator under contextlib.contextmanager would cost each run of a task 1 µs more.
    __slots__ = ("_leadership", "_token")

    def __init__(self, leadership: Leadership) -> None:
        self._leadership = leadership

    def __enter__(self) -> None:
        if leadership_module.granted is not None:
            leadership_module.granted.begin_run()
        self._token = CURRENT.set(self._leadership)

    def __exit__(self, *_: object) -> None:
        CURRENT.reset(self._token)


def forwards_of(headers: Mapping[str, Any] | None) -> int:
    """Return how often a message was forwarded; 0 for a header that is not ours."""
    found = (headers or {}).get(FORWARDS)
    return found if isinstance(found, int) and 0 < found < _MOST_FORWARDS else 0


def _elsewhere(task: Any, request: Any, reader: LeadershipReader, mark: LeaderOnlyMark) -> None:
    """Skip, fail or forward a run because this worker does not lead.

    Its mark says which, if it came by the leader queue; otherwise it is forwarded.
    """
    # If it came by another queue, it is here by chance and no leader has seen it: forward it.
    came_by_queue = brought(declaration(task.app, reader.queue), request.delivery_info)
    if came_by_queue and mark.otherwise == "skip":
        logger.info("Skipped %s (%s): this worker is not the leader", task.name, request.id)
        return
    if came_by_queue and mark.otherwise == "fail":
        raise NotLeaderError(reader.election)
    _forward(task, request, reader)
    raise Ignore


def _forward(task: Any, request: Any, reader: LeadershipReader) -> None:
    headers = dict(request.headers or {})
    count = forwards_of(headers) + 1
    headers[FORWARDS] = count
    # The first time at once: there may be a leader. After that it is more likely that there is
    # none, or that a worker consumes the queue that should not.
    pause = None
    if count > 1:
        pause = backoff(count - 1, first=_SHORTEST_PAUSE, longest=_LONGEST_PAUSE)
    signature = task.signature_from_request(
        request, queue=declaration(task.app, reader.queue), headers=headers, countdown=pause
    )
    try:
        signature.apply_async()
    except Exception:
        # It may be acknowledged already: this line and the task's failure are all that is left.
        logger.error(
            "Could not forward %s (%s), so it fails: this worker is not the leader, and the broker "
            "cannot be reached. Arguments: %s %s",
            task.name,
            request.id,
            request.argsrepr,
            request.kwargsrepr,
        )
        raise
    logger.log(
        logging.ERROR if count >= _ALARMING else logging.INFO,
        "Forwarded %s (%s) to leader queue %s (forward #%d): this worker is not the leader",
        task.name,
        request.id,
        reader.queue,
        count,
    )
