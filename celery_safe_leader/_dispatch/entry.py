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
from celery_safe_leader._schedules.moments import from_datetime, to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id, successor_id
from celery_safe_leader._schedules.rule import Rule, ScheduleError

__all__ = ["Entry", "Source"]


class Source(Protocol):
    """What an entry is made from: Celery's ``ScheduleEntry``, or anything that shows as much."""

    last_run_at: datetime | None
    total_run_count: int


class Entry:
    """An entry, the rule of its schedule, and where it stands in the ledger."""

    __slots__ = ("claim", "limit", "max_lateness_us", "name", "policy", "rule", "run", "source")

    def __init__(
        self, source: Source, name: str, rule: Rule, own: Mapping[str, Any], default_policy: Policy
    ) -> None:
        """Make an entry that the ledger has not been asked about.

        Args:
            source: What the schedule holds: shown its last run, and given to whoever builds
                messages.
            name: Of the entry.
            rule: Of its schedule.
            own: Its own options, as ``check_entry_options`` returns them.
            default_policy: For missed runs, where they name none.
        """
        self.source = source
        self.name = name
        self.rule = rule
        self.policy = Policy(own.get("missed_runs", default_policy))
        self.limit: int = own.get("limit", DEFAULT_LIMIT)
        lateness = own.get("max_lateness")
        self.max_lateness_us = None if lateness is None else int(lateness * 1_000_000)
        self.run: LastRun | None = None
        self.claim: Claim | None = None

    def starting_run(self, now_us: int, given_last_run: Any) -> LastRun:
        """Return where an entry begins that the ledger does not know.

        Args:
            now_us: Now.
            given_last_run: ``last_run_at`` as the user gave it in the entry, or ``None``.
        """
        moment = now_us if given_last_run is None else min(now_us, from_datetime(given_last_run))
        count = int(self.source.total_run_count or 0)
        return LastRun(moment, count, moment, self.rule.fingerprint)

    def changed_run(self, run: LastRun, now_us: int) -> LastRun:
        """Return where an entry goes on whose schedule is not the ledger's any more.

        It keeps its count; nothing before this moment counts as missed.
        """
        return LastRun(run.moment, run.count, max(now_us, run.moment), self.rule.fingerprint)

    def next_us(self) -> int | None:
        """Return when the entry is due next, as far as its rule can say without a clock."""
        run = self.run
        if run is None:
            return None
        base_us = max(run.moment, run.seen)
        # A schedule of an unknown class has to be asked, with the clock: at once.
        return self.rule.after(base_us) if self.rule.exact else base_us

    def due_runs(self, now_us: int) -> DueRuns:
        """Decide what the entry owes now."""
        run = self.run
        if run is None:
            raise ScheduleError(self.rule.name, "is not in the ledger yet")
        return due_runs(
            self.rule,
            run.moment,
            now_us,
            self.policy,
            seen_us=run.seen,
            limit=self.limit,
            max_lateness_us=self.max_lateness_us,
        )

    @property
    def lateness_us(self) -> float:
        """How late a run may be."""
        limit = float("inf") if self.max_lateness_us is None else self.max_lateness_us
        return min(limit, DEFAULT_TOLERANCE_US) if self.policy is Policy.SKIP else limit

    def claim_for(self, key: str, owed: DueRuns, token: int) -> Claim:
        """Return the claim of the oldest run that is owed."""
        first, moment = owed.runs[0]
        if self.rule.exact:
            occurrence = occurrence_id(key, self.name, moment)
        else:
            occurrence = successor_id(key, self.name, owed.base_us)
        return Claim(self.name, occurrence, moment, first, self.rule.fingerprint, token)

    def committed(self, claim: Claim) -> LastRun:
        """Return the run to record once ``claim`` is published."""
        run = self.run
        count = 0 if run is None else run.count
        seen = claim.moment if run is None else run.seen
        return LastRun(claim.moment, count + 1, seen, self.rule.fingerprint)

    def take(self, run: LastRun) -> None:
        """Stand where the ledger says, and show it on Celery's entry."""
        self.run = run
        self.source.total_run_count = run.count
        self.source.last_run_at = to_datetime(run.moment)
