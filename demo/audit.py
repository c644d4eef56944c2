"""Counts runs lost and runs doubled from what the workers recorded: ``python -m demo.audit``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery.schedules import crontab
from django.conf import settings

from demo import project
from demo.tally import MICROSECONDS, Execution, Tally, Window, table, tally, tally_by_clock

if TYPE_CHECKING:
    from orders.models import Run  # only importable once Django is loaded


def audit(window: Window | None = None) -> list[Tally]:
    """Count all entries of the schedule from the recorded runs."""
    return [
        _audit_entry(name, entry, window) for name, entry in settings.CELERY_BEAT_SCHEDULE.items()
    ]


def _audit_entry(name: str, entry: Mapping[str, Any], window: Window | None) -> Tally:
    from orders.models import Run

    runs = list(Run.objects.filter(task=entry["task"]))
    interval = interval_of(entry["schedule"])
    if all(run.covers and run.occurrence for run in runs):
        return tally(name, [_execution(run) for run in runs], interval, window)
    times = [int(run.executed_at.timestamp() * MICROSECONDS) for run in runs]
    return tally_by_clock(name, times, interval)


def _execution(run: Run) -> Execution:
    first, last = (int(moment) for moment in run.covers.split(","))
    return Execution(run.occurrence, first, last)


def interval_of(schedule: timedelta | crontab) -> int:
    """Return the microseconds between two due moments of a schedule of this project."""
    if isinstance(schedule, timedelta):
        return schedule // timedelta(microseconds=1)
    if schedule == crontab():
        return 60 * MICROSECONDS
    raise ValueError(f"cannot count runs of {schedule!r}; intervals and crontab() can be counted")


def main() -> int:
    """Print the counts, and return 1 if a run was lost or doubled."""
    project.load()
    tallies = audit()
    print(table(tallies))
    if all(count.ok for count in tallies):
        return 0
    print("runs were lost or doubled", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
