"""The entries of the schedule, and which of them changed since the dispatcher last asked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._beat.entries.watched_schedule import WatchedSchedule, watch
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader.errors import ConfigurationError

__all__ = ["Roster"]


class Roster:
    """Keeps the scheduler's entries in step with ``app.conf.beat_schedule``.

    An entry that cannot be followed is an error in the log that names it; the others go on.
    """

    def __init__(self, app: Celery, default_policy: str) -> None:
        self._app = app
        self._default_policy = Policy(default_policy)
        self._configured: WatchedSchedule | None = None
        self._given: dict[str, datetime] = {}
        self._changed: dict[str, Entry | None] = {}
        self.entries: dict[str, Entry] = {}
        """Every entry that can be followed."""

    def setup(self, scheduler: Scheduler) -> None:
        """Read all entries for the first time.

        Raises:
            ConfigurationError: ``options["leader"]`` of an entry is wrong.
        """
        self._configured, _ = watch(self._app)
        self._configured.changes()
        self._merge(scheduler, self._configured)
        self._read_changed(scheduler, strict=True)

    def refresh(self, scheduler: Scheduler) -> None:
        """Read the entries that were set or removed since; costs nothing if there are none."""
        configured, replaced = watch(self._app)
        if replaced or configured is not self._configured:
            names: set[str] = set(configured).union(self._configured or ())
            self._configured = configured
        else:
            names = configured.changes()
        if names:
            self._merge(scheduler, names)
        self._read_changed(scheduler, strict=False)

    def changes(self) -> dict[str, Entry | None]:
        """Return the entries that are new, changed or gone since the last call.

        Returns:
            Name -> what it was at the last call; ``None`` if it was not there, or not followed.
        """
        changed, self._changed = self._changed, {}
        return changed

    def given_last_run(self, name: str) -> datetime | None:
        """Return the ``last_run_at`` that the user wrote into an entry, if any."""
        return self._given.get(name)

    def _merge(self, scheduler: Scheduler, names: Iterable[str]) -> None:
        configured: dict[str, Any] = self._configured or {}
        for name in names:
            raw = configured.get(name)
            if raw is None:
                scheduler.schedule.pop(name, None)
                continue
            entry = self._entry(scheduler, name, raw)
            if entry is not None:
                scheduler.schedule[name] = entry

    def _entry(self, scheduler: Scheduler, name: str, raw: Any) -> ScheduleEntry | None:
        self._given.pop(name, None)
        try:
            given = raw.get("last_run_at") if isinstance(raw, dict) else None
            if given is not None:
                if not isinstance(given, datetime):
                    raise TypeError(f"last_run_at is {given!r}; it must be a datetime")
                self._given[name] = given
            entry = scheduler._maybe_entry(name, raw)
            entry.total_run_count = int(entry.total_run_count or 0)
            return entry
        except Exception as exc:
            # Whatever a schedule's own code raises concerns its entry only.
            logger.error("Entry %r of beat_schedule cannot be read: %s; it never runs", name, exc)
            return None

    def _read_changed(self, scheduler: Scheduler, *, strict: bool) -> None:
        entries = scheduler.schedule
        if not isinstance(entries, WatchedSchedule):
            scheduler.schedule = entries = WatchedSchedule(entries)
            names: set[str] = set(entries).union(self.entries)
        else:
            names = entries.changes()
        for name in names:
            before = self.entries.pop(name, None)
            self._changed.setdefault(name, before)
            self._read_one(name, entries.get(name), strict=strict)

    def _read_one(self, name: str, entry: ScheduleEntry | None, *, strict: bool) -> None:
        if entry is None:
            return
        try:
            self.entries[name] = read_entry(entry, self._default_policy)
        except ConfigurationError as exc:
            if strict:
                raise
            logger.error("Entry %r of beat_schedule is refused: %s; it never runs", name, exc)
        except ScheduleError as exc:
            logger.error("Entry %r of beat_schedule never runs: %s", name, exc)
        except Exception as exc:
            logger.error("The schedule of entry %r fails: %r; it never runs", name, exc)
