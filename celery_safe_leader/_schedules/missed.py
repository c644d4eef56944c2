"""What is to be published now, of all that came due since the last committed run.

Each run stands for a range of due moments, from the first after the last committed one to its own.
So over the life of an entry the ranges have neither gap nor overlap, whatever the policy left out:
moments that are not published lie in the range of the next run that is.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from celery_safe_leader._schedules.moments import MINUTE_US
from celery_safe_leader._schedules.rule import Rule, ScheduleError

__all__ = ["DEFAULT_LIMIT", "DEFAULT_TOLERANCE_US", "DueRun", "DueRuns", "Policy", "due_runs"]

DEFAULT_LIMIT = 1_000
"""Most runs that ``Policy.ALL`` publishes at once."""

DEFAULT_TOLERANCE_US = MINUTE_US
"""How late a run may be and is still on time for ``Policy.SKIP``: longer than any takeover with
the default ttl. With a longer ttl it should be longer too."""


class Policy(str, Enum):
    """What becomes of several moments that came due while nobody published."""

    COALESCE = "coalesce"
    """One run, at the latest moment, for all of them."""
    SKIP = "skip"
    """One run, at the latest moment, if that is on time; else none until the next moment."""
    ALL = "all"
    """One run for each, up to a limit; what is over it coalesces into the first."""


class DueRun(NamedTuple):
    """One run to be published. Its occurrence is ``last``; it stands for ``first`` to ``last``."""

    first: int
    last: int


class DueRuns(NamedTuple):
    """What to publish now, and when to ask again."""

    runs: tuple[DueRun, ...]
    """In the order of their moments."""
    coalesced: int
    """Moments that have no run of their own, because a later one's run stands for them."""
    dropped: int
    """Moments since the last committed run that are too late, or, with ``Policy.SKIP``, not the
    latest. They are reported each time until a run is committed."""
    next_due: int | None
    """When to ask again; ``None`` for never."""
    base_us: int
    """What the runs are counted from. If a rule is not ``exact``, the run's id is made of it."""


def due_runs(
    rule: Rule,
    last_us: int,
    now_us: int,
    policy: Policy = Policy.COALESCE,
    *,
    seen_us: int | None = None,
    limit: int = DEFAULT_LIMIT,
    max_lateness_us: int | None = None,
    tolerance_us: int = DEFAULT_TOLERANCE_US,
) -> DueRuns:
    """Return which runs are due now. A function of its arguments.

    Args:
        rule: The entry's rule, an ``exact`` one.
        last_us: Moment of the last committed run.
        now_us: Now. Before ``last_us`` nothing is due.
        policy: What becomes of missed moments.
        seen_us: When a leader first saw this schedule; nothing before it is missed.
        limit: Most runs of ``Policy.ALL``, at least 1.
        max_lateness_us: A moment that is longer ago is not published; ``None`` for no limit.
        tolerance_us: The same, for ``Policy.SKIP`` alone; the smaller of both counts.

    Raises:
        ScheduleError: The schedule does not name a later moment. It is this entry's error.
    """
    base_us = last_us if seen_us is None else max(last_us, seen_us)
    first = _later(rule, base_us)
    if first is None or first > now_us:
        return DueRuns((), 0, 0, first, base_us)
    lateness_us = max_lateness_us
    if policy is Policy.SKIP:
        lateness_us = tolerance_us if lateness_us is None else min(lateness_us, tolerance_us)
    cutoff_us = first if lateness_us is None else now_us - lateness_us
    second = _later(rule, first)
    if second is None or second > now_us:  # nothing was missed: by far the most frequent case
        on_time = first >= cutoff_us
        only = (DueRun(first, first),) if on_time else ()
        return DueRuns(only, 0, 0 if on_time else 1, second, base_us)
    moments = rule.recent(base_us, now_us, limit if policy is Policy.ALL else 1)
    kept = [moment for moment in moments if moment >= cutoff_us]
    runs = tuple(DueRun(first if moment == kept[0] else moment, moment) for moment in kept)
    missed = rule.count(base_us, now_us)
    dropped = rule.count(base_us, cutoff_us - 1)
    if policy is Policy.SKIP:
        dropped = missed - len(runs)
    return DueRuns(runs, missed - dropped - len(runs), dropped, _later(rule, moments[-1]), base_us)


def _later(rule: Rule, moment_us: int) -> int | None:
    moment = rule.after(moment_us)
    if moment is not None and moment <= moment_us:
        raise ScheduleError(rule.name, f"returned {moment} as the moment after {moment_us} (in µs)")
    return moment
