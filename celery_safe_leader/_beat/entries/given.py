"""What a user gave an entry besides its schedule and its task: where it starts, and its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.frames import moment_of
from celery_safe_leader._schedules.moments import LAST_US, from_datetime, to_datetime
from celery_safe_leader._schedules.safe_text import safe_repr

__all__ = ["check_options", "count_of", "utc_of"]

_MOST_RUNS = 2**53


def utc_of(last_run_at: Any, now: Callable[[], Any] | None = None) -> datetime:
    """Return a given ``last_run_at`` in UTC, between 1970 and 9998.

    Without a zone it is taken as UTC, as Celery does.

    Args:
        last_run_at: A ``datetime``.
        now: The clock that it is by, if the schedule has one of its own.

    Raises:
        TypeError: It is not a ``datetime``.
    """
    if not isinstance(last_run_at, datetime):
        raise TypeError(f"last_run_at is {safe_repr(last_run_at)}; it must be a datetime")
    moment = from_datetime(last_run_at) if now is None else moment_of(last_run_at, now())
    return to_datetime(min(max(0, moment), LAST_US))


def count_of(total_run_count: Any) -> int:
    """Return a given ``total_run_count`` as the ledger can keep it.

    Raises:
        TypeError: It is not a number.
        ValueError: Likewise.
    """
    return min(max(0, int(total_run_count or 0)), _MOST_RUNS)


def check_options(name: str, options: Any) -> None:
    """Check the options of an entry, as far as every one of its runs would fail.

    Raises:
        TypeError: They are not a dict.
    """
    if not isinstance(options, Mapping):
        raise TypeError(f"its options are {safe_repr(options)}; they must be a dict")
    if options.get("task_id") is not None:
        logger.warning(
            "The task_id of entry %r (%s) is not used: each of its runs gets an id of its own, by "
            "which workers recognize a second publication. Look results up by the id that a worker "
            "logs, or remove task_id from the entry's options",
            name,
            safe_repr(options["task_id"]),
        )
