"""One entry of the schedule as the dispatcher sees it: its rule, its policy, its last run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._schedules.asked import Asked
from celery_safe_leader._schedules.missed import (
    DEFAULT_LIMIT,
    DEFAULT_TOLERANCE_US,
    DueRun,
    DueRuns,
    Policy,
    due_runs,
)
from celery_safe_leader._schedules.moments import SECOND_US, from_datetime, now_us, to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id, repeated_id, successor_id
from celery_safe_leader._schedules.opaque import OpaqueRule
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
        "_asked", "_missed", "claim", "last_run", "limit", "max_lateness_us", "name", "owed_us",
        "policy", "rule", "source",
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
        self.owed_us: int | None = None
        """When a new leader found that the schedule of the one before owes a run, if it does."""
        self._asked = None if rule.exact else Asked()
        self._missed = 0, 0  # base, and how many moments after it were told of as missed

    def initial_last_run(self, now_us: int, given_last_run: Any) -> LastRun:
        """Return where an entry starts that the ledger does not know.

        Args:
            now_us: Now.
            given_last_run: ``last_run_at`` as the user gave it in the entry, or ``None``.
        """
        moment = now_us if given_last_run is None else min(now_us, from_datetime(given_last_run))
        return LastRun(moment, self._shown_count(), moment, self.rule.fingerprint)

    def _shown_count(self) -> int:
        try:
            return int(self.source.total_run_count or 0)
        except Exception:  # of a class of the user's
            return 0

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
        if self._owes:
            return self.owed_us
        base_us = last_run.base
        if self._asked is None:
            return self.rule.after(base_us)
        return self._asked.next_us(base_us, now_us())

    def next_by_rule(self) -> int | None:
        """Return when the rule has the entry due next; ``None`` if that cannot be computed."""
        if self.last_run is None or not self.rule.exact:
            return None
        try:
            return self.rule.after(self.last_run.base)
        except Exception:
            return None  # the timetable says so

    @property
    def _owes(self) -> bool:
        return self.owed_us is not None and not self.follows_schedule

    @property
    def follows_schedule(self) -> bool:
        """Whether its last run, as far as it is known, was written under its present schedule."""
        return self.last_run is not None and self.last_run.fingerprint == self.rule.fingerprint

    def due_runs(self, at_us: int) -> DueRuns:
        """Return which runs of the entry are due now; asks a schedule of an unknown class.

        Raises:
            ScheduleError: The schedule cannot be followed.
        """
        last_run = self.last_run
        if last_run is None:
            raise ScheduleError(self.rule.name, "is not in the ledger yet")
        if self._owes:
            only = DueRun(last_run.base + 1, max(at_us, last_run.base + 1))
            return DueRuns((only,), 0, 0, None, last_run.base)
        if self._asked is not None and isinstance(self.rule, OpaqueRule):
            return self._asked.due_runs(self.rule, last_run.base, at_us, self.lateness_us)
        return due_runs(
            self.rule,
            last_run.moment,
            at_us,
            self.policy,
            seen_us=last_run.seen,
            limit=self.limit,
            max_lateness_us=self.max_lateness_us,
        )

    def new_missed(self, base_us: int, coalesced: int, dropped: int) -> tuple[int, int]:
        """Return how many of the moments were not returned as too late before.

        Args:
            base_us: What the entry's runs are counted from.
            coalesced: For how many moments since then a later run stands.
            dropped: How many are too late.

        Returns:
            Of both how many are new.
        """
        told_us, told = self._missed
        before = told if told_us == base_us else 0
        self._missed = base_us, max(before, dropped)
        # By another policy than before, or a clock that was set back, some are not too late now.
        again = max(0, before - dropped)
        return max(0, coalesced - again), max(0, dropped - before)

    @property
    def lateness_us(self) -> float:
        """How late a run may be."""
        limit = float("inf") if self.max_lateness_us is None else self.max_lateness_us
        return min(limit, DEFAULT_TOLERANCE_US) if self.policy is Policy.SKIP else limit

    def claim_for(self, key: str, due: DueRuns, token: int) -> Claim:
        """Return the claim of the oldest run that is due."""
        first, moment = due.runs[0]
        until = 0 if self.last_run is None else self.last_run.repeats_until
        if self.rule.exact and moment <= until:
            # Another id than before: workers may have accepted that one.
            occurrence = repeated_id(key, self.name, moment, until)
        elif self.rule.exact and not self._owes:
            occurrence = occurrence_id(key, self.name, moment)
        else:
            occurrence = successor_id(key, self.name, due.base_us)
        return Claim(self.name, occurrence, moment, first, self.rule.fingerprint, token)

    def last_run_after(self, claim: Claim) -> LastRun:
        """Return what the ledger has to record once ``claim`` is published."""
        last_run = self.last_run
        count = 0 if last_run is None else last_run.count
        seen = claim.moment if last_run is None or self._owes else last_run.seen
        return LastRun(claim.moment, count + 1, seen, self.rule.fingerprint)

    def keep_answer(self, before: Entry) -> None:
        """Go on from what was found for the entry that this replaces.

        That is what its schedule said when it was asked, and what was told of as missed.
        """
        self._missed = before._missed
        if isinstance(self.rule, OpaqueRule) and self.rule.is_same_as(before.rule):
            self._asked = before._asked

    def set_last_run(self, last_run: LastRun) -> None:
        """Record where the entry stands in the ledger, and show it on its source."""
        self.last_run = last_run
        try:
            self.source.total_run_count = last_run.count
            self.source.last_run_at = to_datetime(last_run.moment)
        except Exception:
            # A class of the user's: what it shows decides nothing.
            return
