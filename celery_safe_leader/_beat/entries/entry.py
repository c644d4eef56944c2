"""From a Celery ``ScheduleEntry`` to an entry of the dispatcher."""

from __future__ import annotations

from celery.beat import ScheduleEntry

from celery_safe_leader._beat.entries.rule_for import rule_for
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._schedules.missed import Policy
from celery_safe_leader._schedules.policy_options import check_entry_options

__all__ = ["read_entry"]


def read_entry(entry: ScheduleEntry, default_policy: Policy) -> Entry:
    """Return the dispatcher's entry for one of Celery's.

    Raises:
        ScheduleError: Its schedule can never be followed.
        ConfigurationError: Its ``options["leader"]`` is wrong.
    """
    rule = rule_for(entry.schedule)
    own = check_entry_options(entry.name, entry.options)
    return Entry(entry, entry.name, rule, own, default_policy)
