"""One entry of the schedule as the dispatcher sees it: its rule, its policy, its last run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._schedules.missed import (
    DEFAULT_LIMIT,
    DEFAULT_TOLERANCE_US,
    DueRuns,
    Policy,
    due_runs,
)
from celery_safe_leader._schedules.moments import SECOND_US, from_datetime, to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id, successor_id
from celery_safe_leader._schedules.rule import Rule, ScheduleError

__all__ = ["Entry", "Source"]


class Source(Protocol):
    """What an entry is made from: Celery's ``ScheduleEntry``, or anything that shows as much."""

    last_run_at: datetime | None
    total_run_count: int


class Entry:
    """An entry: the rule of its schedule, its policy, and where it stands in the ledger.

    Args:
        source: What the schedule holds. It is shown the last run, and passed to whoever builds
            messages.
        name: Of the entry.
        rule: Of its schedule.
        own: Its own options, as ``check_entry_options`` returns them.
        default_policy: For missed runs, where the options name none.
    """

    __slots__ = (
        "claim", "last_run", "limit", "max_lateness_us", "name", "policy", "rule", "source",
    )  # fmt: skip

    def __init__(
        self, source: Source, name: str, rule: Rule, own: Mapping[str, Any], default_policy: Policy
    ) -> None:
        self.source = source
        self.name = name
        self.rule = rule
        self.policy = Policy(own.get("missed_runs", default_policy))
        self.limit: int = own.get("limit", DEFAULT_LIMIT)
        lateness = own.get("max_lateness")
        self.max_lateness_us = None if lateness is None else int(lateness * SECOND_US)
        self.last_run: LastRun | None = None
        """What the ledger says; ``None``: nothing yet."""
        self.claim: Claim | None = None
        """The run that is claimed and not committed yet, if any."""

    def initial_last_run(self, now_us: int, given_last_run: Any) -> LastRun:
        """Return where an entry starts that the ledger does not know.

        Args:
            now_us: Now.
            given_last_run: ``last_run_at`` as the user gave it in the entry, or ``None``.
        """
        moment = now_us if given_last_run is None else min(now_us, from_datetime(given_last_run))
        count = int(self.source.total_run_count or 0)
        return LastRun(moment, count, moment, self.rule.fingerprint)

    def rebased_last_run(self, last_run: LastRun, now_us: int) -> LastRun:
        """Return where an entry continues whose schedule is no longer the one in the ledger.

        It keeps its count; nothing before this moment counts as missed.
        """
        seen = max(now_us, last_run.moment)
        return LastRun(last_run.moment, last_run.count, seen, self.rule.fingerprint)

    def next_us(self) -> int | None:
        """Return when the entry is due next, as far as its rule can say without a clock."""
        last_run = self.last_run
        if last_run is None:
            return None
        base_us = max(last_run.moment, last_run.seen)
        # A schedule of an unknown class has to be asked, with the clock: at once.
        return self.rule.after(base_us) if self.rule.exact else base_us

    def due_runs(self, now_us: int) -> DueRuns:
        """Return which runs of the entry are due now."""
        last_run = self.last_run
        if last_run is None:
            raise ScheduleError(self.rule.name, "is not in the ledger yet")
        return due_runs(
            self.rule,
            last_run.moment,
            now_us,
            self.policy,
            seen_us=last_run.seen,
            limit=self.limit,
            max_lateness_us=self.max_lateness_us,
        )

    @property
    def lateness_us(self) -> float:
        """How late a run may be."""
        limit = float("inf") if self.max_lateness_us is None else self.max_lateness_us
        return min(limit, DEFAULT_TOLERANCE_US) if self.policy is Policy.SKIP else limit

    def claim_for(self, key: str, due: DueRuns, token: int) -> Claim:
        """Return the claim of the oldest run that is due."""
        first, moment = due.runs[0]
        if self.rule.exact:
            occurrence = occurrence_id(key, self.name, moment)
        else:
            occurrence = successor_id(key, self.name, due.base_us)
        return Claim(self.name, occurrence, moment, first, self.rule.fingerprint, token)

    def last_run_after(self, claim: Claim) -> LastRun:
        """Return what the ledger has to record once ``claim`` is published."""
        last_run = self.last_run
        count = 0 if last_run is None else last_run.count
        seen = claim.moment if last_run is None else last_run.seen
        return LastRun(claim.moment, count + 1, seen, self.rule.fingerprint)

    def set_last_run(self, last_run: LastRun) -> None:
        """Record where the entry stands in the ledger, and show it on its source."""
        self.last_run = last_run
        self.source.total_run_count = last_run.count
        self.source.last_run_at = to_datetime(last_run.moment)
