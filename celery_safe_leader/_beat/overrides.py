"""What of Celery's ``Scheduler`` a subclass of ``LeaderScheduler`` may override.

Nothing is ignored without a word: what is never called here is refused, by name.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from functools import cached_property
from types import FunctionType
from typing import Any

from celery.beat import ScheduleEntry, Scheduler
from celery.exceptions import ImproperlyConfigured

__all__ = ["AskedSchedule", "asks_for_itself", "check_overrides", "sync_one_at_a_time"]

_SERVED = frozenset(
    {
        "__init__", "_do_sync", "_maybe_entry", "add", "apply_async", "apply_entry", "close",
        "info", "install_default_entries", "is_due", "send_task", "setup_schedule",
        "should_sync", "sync", "tick", "update_from_dict",
    }
)  # fmt: skip
"""Methods of a scheduler that are called as in stock beat."""

_NEVER_CALLED_OF_ENTRIES = ("__next__", "next", "_next_instance", "update")
"""What keeps an entry's last run in stock beat; here the ledger does."""
_KEPT_OF_ENTRIES = ("last_run_at", "total_run_count")
"""The last run itself: a property that keeps it elsewhere would be told of no run."""

_LONGEST_WAIT = 5.0
"""Seconds."""


def check_overrides(kind: type, own: type) -> None:
    """Refuse a class of schedulers that overrides what is never called.

    Args:
        kind: The class.
        own: ``LeaderScheduler``, from which it is derived.

    Raises:
        ImproperlyConfigured: It does.
    """
    wrong = {
        f"{name}()" if isinstance(found, FunctionType) else name
        for each in _others(kind, own, Scheduler)
        for name, found in vars(each).items()
        if name not in _SERVED and _is_code(vars(Scheduler).get(name))
    }
    entry = getattr(kind, "Entry", ScheduleEntry)
    wrong |= {
        f"Entry.{name}()"
        for each in _others(entry, ScheduleEntry, ScheduleEntry)
        for name in _NEVER_CALLED_OF_ENTRIES
        if name in vars(each)
    }
    wrong |= {
        f"Entry.{name}"
        for each in _others(entry, ScheduleEntry, ScheduleEntry)
        for name in _KEPT_OF_ENTRIES
        if hasattr(vars(each).get(name), "__set__")
    }
    if wrong:
        raise ImproperlyConfigured(
            f"the scheduler class {kind.__module__}.{kind.__qualname__} overrides "
            f"{', '.join(sorted(wrong))}, which LeaderScheduler never calls: due runs come from "
            "its ledger. Remove the override, or let the class keep its own schedule: derive it "
            "from LeaderSchedulerMixin and a scheduler of Celery's, as in "
            "`class Mine(LeaderSchedulerMixin, Scheduler)`"
        )


def _others(kind: type, *known: type) -> Iterator[type]:
    """Yield the classes that somebody else has written among the bases of a class."""
    for each in kind.__mro__:
        if each is not object and each not in known:
            yield each


def _is_code(found: Any) -> bool:
    return isinstance(found, (FunctionType, property, cached_property))


def asks_for_itself(scheduler: Scheduler, entry: ScheduleEntry) -> bool:
    """Return whether somebody else than the schedule says if an entry is due."""
    kind = type(entry)
    return (
        getattr(type(scheduler), "is_due", None) is not Scheduler.is_due
        or "is_due" in vars(scheduler)
        or getattr(kind, "is_due", None) is not ScheduleEntry.is_due
    )


class AskedSchedule:
    """A schedule that is asked by way of its scheduler and entry, which have a say in it.

    Args:
        scheduler: The scheduler.
        entry: The entry; not changed.
    """

    def __init__(self, scheduler: Scheduler, entry: ScheduleEntry) -> None:
        self._scheduler = scheduler
        self._entry = entry

    def __repr__(self) -> str:
        return repr(self._entry.schedule)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry.schedule, name)

    def is_due(self, last_run_at: Any) -> Any:
        """Ask the scheduler, as stock beat does, for an entry that has last run then."""
        entry = copy.copy(self._entry.__dict__)
        asked = object.__new__(type(self._entry))
        asked.__dict__.update(entry, last_run_at=last_run_at)
        return self._scheduler.is_due(asked)


def sync_one_at_a_time(scheduler: Scheduler) -> None:
    """Let a subclass's ``sync`` and ``should_sync`` be called by one thread at a time.

    Stock beat has one thread; here runs are sent on another one.
    """
    kind = type(scheduler)
    if kind.sync is Scheduler.sync and kind.should_sync is Scheduler.should_sync:
        return
    lock, sync, should_sync = threading.RLock(), scheduler.sync, scheduler.should_sync

    def one_should_sync() -> bool:
        if not lock.acquire(blocking=False):
            return False  # somebody does it now
        try:
            return bool(should_sync())
        finally:
            lock.release()

    def one_sync() -> None:
        if lock.acquire(timeout=_LONGEST_WAIT):
            try:
                sync()
            finally:
                lock.release()

    vars(scheduler).update(should_sync=one_should_sync, sync=one_sync)
