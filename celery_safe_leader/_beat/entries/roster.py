"""The entries of the schedule, and which of them changed since the dispatcher last asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from celery import Celery
from celery.beat import ScheduleEntry, Scheduler

from celery_safe_leader._beat.entries.celery_clocks import own_now
from celery_safe_leader._beat.entries.entry import read_entry
from celery_safe_leader._beat.entries.given import check_options, count_of, utc_of
from celery_safe_leader._beat.entries.names import text_name
from celery_safe_leader._beat.entries.watched_schedule import WatchedSchedule, watch
from celery_safe_leader._beat.overrides import AskedSchedule, asks_for_itself
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.opaque import DEFAULT_MAX_INTERVAL
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader._schedules.safe_text import Shown, is_containable, safe_str
from celery_safe_leader.errors import ConfigurationError

__all__ = ["Roster"]


class Roster:
    """Keeps the scheduler's entries in step with ``app.conf.beat_schedule``.

    An entry that cannot be followed is an error in the log that names it; the others go on. The
    schedule may have any keys; here entries are called by strings.
    """

    def __init__(self, app: Celery, default_policy: str) -> None:
        self._app = app
        self._default_policy = Policy(default_policy)
        self._max_interval = DEFAULT_MAX_INTERVAL
        self._scheduler: Scheduler | None = None
        self._configured: WatchedSchedule | None = None
        self._keys: dict[str, Any] = {}
        self._given: dict[str, datetime | None] = {}
        self._merged: dict[str, Any] = {}
        self._changed: dict[str, Entry | None] = {}
        self.entries: dict[str, Entry] = {}
        """Every entry that can be followed."""

    def setup(self, scheduler: Scheduler) -> None:
        """Read all entries for the first time.

        Raises:
            ConfigurationError: ``options["leader"]`` of an entry is wrong.
        """
        self._scheduler = scheduler
        self._max_interval = float(scheduler.max_interval)
        self._configured, _ = watch(self._app)
        self._configured.changes()
        self._merge(scheduler, list(self._configured))
        self._read_changed(scheduler, strict=True)

    def refresh(self, scheduler: Scheduler) -> None:
        """Read the entries that were set or removed since; costs nothing if there are none."""
        configured, replaced = watch(self._app)
        keys: Iterable[Any]
        if replaced or configured is not self._configured:
            keys = dict.fromkeys((*configured, *(self._configured or ())))
            self._configured = configured
        else:
            keys = configured.changes()
        if keys:
            self._merge(scheduler, keys)
        self._read_changed(scheduler, strict=False)

    def changes(self) -> dict[str, Entry | None]:
        """Return the entries that are new, changed or gone since the last call.

        Returns:
            Name -> what it was at the last call; ``None`` if it was not there, or not followed.
        """
        changed, self._changed = self._changed, {}
        return changed

    def given_last_run(self, name: str) -> datetime | None:
        """Return the ``last_run_at`` that the user gave an entry, if any; in UTC, from 1970 on."""
        return self._given.get(name)

    def _merge(self, scheduler: Scheduler, keys: Iterable[Any]) -> None:
        configured: dict[Any, Any] = self._configured or {}
        for key in keys:
            _with_net(key, partial(self._merge_one, scheduler, configured, key))

    def _merge_one(self, scheduler: Scheduler, configured: Mapping[Any, Any], key: Any) -> None:
        name, raw = text_name(key), configured.get(key)
        self._merged.pop(name, None)
        if raw is None:
            scheduler.schedule.pop(key, None)
            return
        entry = scheduler._maybe_entry(key, raw)
        if not isinstance(raw, ScheduleEntry):
            # Else it is not known whether the user gave it, or Celery set it to the moment at which
            # the entry was made; stock beat counts from it in both cases.
            given = dict(raw).get("last_run_at")
            self._merged[name] = given
        scheduler.schedule[key] = entry

    def _read_changed(self, scheduler: Scheduler, *, strict: bool) -> None:
        entries = scheduler.schedule
        keys: Iterable[Any]
        if not isinstance(entries, WatchedSchedule):
            scheduler.schedule = entries = WatchedSchedule(entries)
            keys = dict.fromkeys((*entries, *self._keys.values()))
        else:
            keys = entries.changes()
        # A string is called what it is, so it comes before others that are called the same.
        for key in sorted(keys, key=lambda key: not isinstance(key, str)):
            _with_net(key, partial(self._read_one, entries, key), strict=strict)

    def _read_one(self, entries: Mapping[Any, Any], key: Any) -> None:
        name, entry = text_name(key), entries.get(key)
        if self._is_taken(name, key, entry):
            return
        before = self.entries.pop(name, None)
        self._changed.setdefault(name, before)
        if entry is None:
            self._keys.pop(name, None)
            self._given.pop(name, None)
            return
        self._keys[name] = key
        check_options(name, entry.options)
        entry.total_run_count = count_of(entry.total_run_count)
        if name in self._merged:
            given = self._merged.pop(name)
        else:
            given = entry.last_run_at
        self._given[name] = None if given is None else utc_of(given, own_now(entry.schedule))
        asked = None
        if self._scheduler is not None and asks_for_itself(self._scheduler, entry):
            asked = AskedSchedule(self._scheduler, entry)
        self.entries[name] = read_entry(
            entry, self._default_policy, self._max_interval, name=name, asked=asked
        )

    def _is_taken(self, name: str, key: Any, entry: ScheduleEntry | None) -> bool:
        """Return whether another key has the same name; the one that is not str is at fault."""
        taken = self._keys.get(name, key)
        if taken is key or taken == key:
            return False
        if entry is not None:
            loser = taken if isinstance(key, str) else key
            logger.error(
                "Entry %r of beat_schedule is called like another one, %r: it never runs. Rename "
                "one of them",
                Shown(loser),
                name,
            )
        return not isinstance(key, str)


def _with_net(key: Any, read: Callable[[], None], *, strict: bool = False) -> None:
    """Read an entry; an error costs this one alone, and is logged with its name.

    Args:
        key: Of the entry.
        read: Reads it.
        strict: Let a wrong option of ours pass through.
    """
    try:
        read()
    except ConfigurationError as exc:
        if strict:
            raise
        logger.error("Entry %r of beat_schedule is refused: %s; it never runs", Shown(key), exc)
    except ScheduleError as exc:
        logger.error("Entry %r of beat_schedule never runs: %s", Shown(key), safe_str(exc))
    except BaseException as exc:
        # Whatever a schedule's own code raises concerns its entry only.
        if not is_containable(exc):
            raise
        logger.error(
            "Entry %r of beat_schedule cannot be read: %s; it never runs",
            Shown(key),
            f"{type(exc).__name__}: {safe_str(exc)}",
        )
