"""The guard at execution: a leader-only task runs only while its worker leads."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery._state import get_current_task
from celery.exceptions import Ignore

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.interrupt import run_interruptibly
from celery_safe_leader._worker.leader_only.leadership import (
    CURRENT,
    Leadership,
    LeadershipReader,
    reader_of,
)
from celery_safe_leader._worker.leader_only.mark import MARK, LeaderOnlyMark, mark_of
from celery_safe_leader._worker.leader_only.queue import brought, declaration
from celery_safe_leader.errors import NotLeaderError

__all__ = ["FORWARDS", "forwards_of", "guarded"]

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
        if request.called_directly or request.is_eager:
            return body(*args, **kwargs)
        reader = reader_of(task.app)
        found = reader.read()
        if found is None:
            return _elsewhere(task, reader, mark)
        leadership = Leadership(reader, found[0], found[1].fencing_token)
        previous = CURRENT.set(leadership)
        try:
            if mark.revoke_on_loss:
                return run_interruptibly(task, mark, leadership, body, args, kwargs)
            return body(*args, **kwargs)
        finally:
            CURRENT.reset(previous)

    setattr(run, MARK, mark)
    return run


def forwards_of(headers: Mapping[str, Any] | None) -> int:
    """Return how often a message was forwarded; 0 for a header that is not ours."""
    found = (headers or {}).get(FORWARDS)
    return found if isinstance(found, int) and 0 < found < _MOST_FORWARDS else 0


def _elsewhere(task: Any, reader: LeadershipReader, mark: LeaderOnlyMark) -> None:
    """Skip, fail or forward a run because this worker does not lead.

    Its mark says which, if it came by the leader queue; otherwise it is forwarded.
    """
    request = task.request
    # If it came by another queue, it is here by chance and no leader has seen it: forward it.
    came_by_queue = brought(declaration(task.app, reader.queue), request.delivery_info)
    if came_by_queue and mark.otherwise == "skip":
        logger.info("Skipped %s (%s): this worker is not the leader", task.name, request.id)
        return
    if came_by_queue and mark.otherwise == "fail":
        raise NotLeaderError(reader.election)
    _forward(task, reader)
    raise Ignore


def _forward(task: Any, reader: LeadershipReader) -> None:
    request = task.request
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
