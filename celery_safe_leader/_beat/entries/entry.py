"""From a Celery ``ScheduleEntry`` to an entry of the dispatcher."""

from __future__ import annotations

from datetime import timezone, tzinfo
from typing import Any

from celery.beat import ScheduleEntry

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.opaque import DEFAULT_MAX_INTERVAL
from celery_safe_leader._schedules.policy_options import check_entry_options

__all__ = ["read_entry"]


def read_entry(
    entry: ScheduleEntry,
    default_policy: Policy,
    max_interval: float = DEFAULT_MAX_INTERVAL,
    *,
    name: str = "",
    asked: Any = None,
) -> Entry:
    """Return the dispatcher's entry for one of Celery's.

    Args:
        entry: Celery's.
        default_policy: For missed runs, where its options name none.
        max_interval: Seconds after which a schedule is asked again that does not say when to.
        name: What it is called here; empty: as Celery's.
        asked: What is asked in place of its schedule, if anything is.

    Raises:
        ScheduleError: Its schedule can never be followed.
        ConfigurationError: Its ``options["leader"]`` is wrong.
    """
    name = name or entry.name
    rule = rule_for(asked or entry.schedule, max_interval, lambda: _zone_of(entry))
    own = check_entry_options(name, entry.options)
    return Entry(entry, name, rule, own, default_policy)


def _zone_of(entry: ScheduleEntry) -> tzinfo:
    return entry.app.timezone if entry.app is not None else timezone.utc
