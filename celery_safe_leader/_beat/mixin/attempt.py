"""The message of a run of another scheduler, with an id that any other leader would give it.

A leader may die after it has sent a message and before it has noted that in the store; its
successor then sends the run once more. Both derive the same id, from the store and the schedule,
and workers run the first of them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._publishing.headers import ELECTION, OCCURRENCE, PUBLICATION, TOKEN
from celery_safe_leader._schedules.moments import DAY_US, from_datetime, now_us
from celery_safe_leader._schedules.occurrence_id import message_id, occurrence_id
from celery_safe_leader._schedules.rule import ScheduleError

__all__ = ["prepare_attempt", "run_id"]

_LONGEST_GAP_US = 400 * DAY_US
"""More than a year. For a longer gap since the last run the moments are not enumerated."""


def prepare_attempt(
    entry: Any, schedule: Any, key: str, token: int, number_of: Callable[[str], int]
) -> Any:
    """Return a copy of an entry for one attempt to send it.

    Args:
        entry: Celery's ``ScheduleEntry`` or a class derived from it; not changed.
        schedule: The entry's, as one of Celery's own classes where there is one.
        key: Of the elections and of the acceptance records.
        token: Fencing token of the leader that sends.
        number_of: Counts the messages of a run, from 1 on, by its id. Whoever sends the same run
            again counts alike.
    """
    options = {**(entry.options or {}), "retry": False}
    options.pop("leader", None)  # for LeaderScheduler
    headers = {**(options.get("headers") or {}), TOKEN: token}
    run = None if options.get("task_id") else run_id(entry, schedule, key)
    if run is not None:
        run = message_id(run, number_of(run))
        options["task_id"] = run
        headers |= {ELECTION: key, OCCURRENCE: run, PUBLICATION: uuid.uuid4().hex}
    options["headers"] = headers
    # Neither copy.copy(), which calls constructors that differ, nor the class's own next().
    copy = object.__new__(type(entry))
    copy.__dict__.update(vars(entry))
    copy.options = options  # which may be a property of its class
    return copy


def run_id(entry: Any, schedule: Any, key: str) -> str | None:
    """Return the id of the run of an entry that is due now.

    It is made of the last run and of the latest due moment: of both, so that no two runs can have
    the same id, even if the store has lost the last one or was told to run an entry again.

    Returns:
        A task id; ``None`` if the schedule's moments cannot be predicted.
    """
    if entry.last_run_at is None:
        return None
    try:
        rule = rule_for(schedule)
        if not rule.exact:
            return None
        last_us = from_datetime(entry.last_run_at)
        now = now_us()
        if now - last_us > _LONGEST_GAP_US:
            return None
        moment_us = rule.latest(last_us, now)
    except ScheduleError:
        return None
    if moment_us is None:
        return None
    return occurrence_id(key, f"{entry.name} after {last_us}", moment_us)
