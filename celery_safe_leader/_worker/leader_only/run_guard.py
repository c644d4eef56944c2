"""The guard at execution: a leader-only task runs only while its worker leads."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery._state import get_current_task
from celery.exceptions import Ignore

from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._worker.leader_only.interrupt import run_revocably
from celery_safe_leader._worker.leader_only.leadership import CURRENT, Leadership, Place, place_of
from celery_safe_leader._worker.leader_only.mark import MARK, LeaderOnlyMark, mark_of
from celery_safe_leader._worker.leader_only.queue import brought, declaration
from celery_safe_leader.errors import NotLeaderError

__all__ = ["FORWARDS", "forwards_of", "guarded"]

FORWARDS = "leader_forwards"
"""Header: how often a message was forwarded to the leader queue."""
_LONGEST_PAUSE = 60
_ALARMING = 10
"""Forwards from which on something must be wrong."""
_MOST_FORWARDS = 1_000_000
"""More than any message lives to see."""


def guarded(body: Callable[..., Any], rules: LeaderOnlyMark) -> Callable[..., Any]:
    """Wrap what a task runs.

    Eager runs and direct calls, as in tests, are not guarded: no broker brought them.
    """

    @functools.wraps(body)
    def run(*args: Any, **kwargs: Any) -> Any:
        task = get_current_task()
        if task is None or mark_of(task) is not rules:
            return body(*args, **kwargs)
        request = task.request
        if request.called_directly or request.is_eager:
            return body(*args, **kwargs)
        place = place_of(task.app)
        found = place.read()
        if found is None:
            return _elsewhere(task, place, rules)
        leadership = Leadership(place, found[0], found[1].fencing_token)
        mark = CURRENT.set(leadership)
        try:
            if rules.revoke_on_loss:
                return run_revocably(task, rules, leadership, body, args, kwargs)
            return body(*args, **kwargs)
        finally:
            CURRENT.reset(mark)

    setattr(run, MARK, rules)
    return run


def forwards_of(headers: Mapping[str, Any] | None) -> int:
    """Return how often a message was forwarded. What is no number of ours counts as never."""
    found = (headers or {}).get(FORWARDS)
    return found if isinstance(found, int) and 0 < found < _MOST_FORWARDS else 0


def _elsewhere(task: Any, place: Place, rules: LeaderOnlyMark) -> None:
    """Do with a run what its rules say of a worker that does not lead."""
    request = task.request
    # By name alone it reached this worker by chance: then nobody who leads has seen it.
    came_by_queue = brought(declaration(task.app, place.queue), request.delivery_info)
    if came_by_queue and rules.otherwise == "skip":
        logger.info("Skipped %s (%s): this worker does not lead", task.name, request.id)
        return
    if came_by_queue and rules.otherwise == "fail":
        raise NotLeaderError(place.election)
    _forward(task, place)
    raise Ignore


def _forward(task: Any, place: Place) -> None:
    request = task.request
    headers = dict(request.headers or {})
    count = forwards_of(headers) + 1
    headers[FORWARDS] = count
    # The first time at once: there may be a leader. From then on it is likelier that there is
    # none, or that a worker consumes the queue that should not.
    pause = min(2 ** (count - 2), _LONGEST_PAUSE) if count > 1 else None
    signature = task.signature_from_request(
        request, queue=declaration(task.app, place.queue), headers=headers, countdown=pause
    )
    try:
        signature.apply_async()
    except Exception:
        # Acknowledged already, perhaps: this line and the task's failure are all that is left.
        logger.error(
            "Could not forward %s (%s), which fails: this worker does not lead, and the broker "
            "cannot be reached. Arguments: %s %s",
            task.name,
            request.id,
            request.argsrepr,
            request.kwargsrepr,
        )
        raise
    logger.log(
        logging.ERROR if count >= _ALARMING else logging.INFO,
        "Forwarded %s (%s) to the leader queue %s, for the %d. time: this worker does not lead",
        task.name,
        request.id,
        place.queue,
        count,
    )
