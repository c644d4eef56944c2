"""One entry of the schedule as the dispatcher sees it."""

from __future__ import annotations

from typing import Any

from celery.beat import ScheduleEntry

from celery_safe_leader._ledger.codec import Claim, Run
from celery_safe_leader._schedules.missed import DEFAULT_LIMIT, DEFAULT_TOLERANCE_US, Plan, Policy, plan
from celery_safe_leader._schedules.occurrence_id import occurrence_id, rule_for, successor_id
from celery_safe_leader._schedules.rule import Rule, ScheduleError, from_datetime, to_datetime
from celery_safe_leader.errors import ConfigurationError

__all__ = ["Item", "check_entry_options"]

_OPTIONS = ("missed_runs", "max_lateness", "limit")


class Item:
    """An entry, the rule of its schedule, and where it stands in the ledger."""

    __slots__ = ("claim", "entry", "limit", "max_lateness_us", "name", "policy", "rule", "run")

    def __init__(self, entry: ScheduleEntry, default_policy: Policy) -> None:
        """Read an entry.

        Raises:
            ScheduleError: Its schedule can never be followed.
            ConfigurationError: Its ``options["leader"]`` are wrong.
        """
        self.entry = entry
        self.name: str = entry.name
        self.rule: Rule = rule_for(entry.schedule)
        own = check_entry_options(entry.name, entry.options)
        self.policy = Policy(own.get("missed_runs", default_policy))
        self.limit: int = own.get("limit", DEFAULT_LIMIT)
        lateness = own.get("max_lateness")
        self.max_lateness_us = None if lateness is None else int(lateness * 1_000_000)
        self.run: Run | None = None
        self.claim: Claim | None = None

    def starting_run(self, now_us: int, given_last_run: Any) -> Run:
        """Return where an entry begins that the ledger does not know.

        Args:
            now_us: Now.
            given_last_run: ``last_run_at`` as the user gave it in the entry, or ``None``.
        """
        moment = now_us if given_last_run is None else min(now_us, from_datetime(given_last_run))
        count = int(self.entry.total_run_count or 0)
        return Run(moment, count, moment, self.rule.fingerprint)

    def changed_run(self, run: Run, now_us: int) -> Run:
        """Return where an entry goes on whose schedule is not the ledger's any more.

        It keeps its count; nothing before this moment counts as missed.
        """
        return Run(run.moment, run.count, max(now_us, run.moment), self.rule.fingerprint)

    def next_us(self) -> int | None:
        """Return when the entry is due next, as far as its rule can say without a clock."""
        run = self.run
        if run is None:
            return None
        base_us = max(run.moment, run.seen)
        # A schedule of an unknown class has to be asked, with the clock: at once.
        return self.rule.after(base_us) if self.rule.exact else base_us

    def plan(self, now_us: int) -> Plan:
        """Decide what the entry owes now."""
        run = self.run
        if run is None:
            raise ScheduleError(self.rule.name, "is not in the ledger yet")
        return plan(
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

    def claim_for(self, key: str, owed: Plan, token: int) -> Claim:
        """Return the claim of the oldest run that is owed."""
        first, moment = owed.runs[0]
        if self.rule.exact:
            occurrence = occurrence_id(key, self.name, moment)
        else:
            occurrence = successor_id(key, self.name, owed.base_us)
        return Claim(self.name, occurrence, moment, first, self.rule.fingerprint, token)

    def committed(self, claim: Claim) -> Run:
        """Return the run to record once ``claim`` is published."""
        run = self.run
        count = 0 if run is None else run.count
        seen = claim.moment if run is None else run.seen
        return Run(claim.moment, count + 1, seen, self.rule.fingerprint)

    def take(self, run: Run) -> None:
        """Stand where the ledger says, and show it on Celery's entry."""
        self.run = run
        entry = self.entry
        entry.total_run_count = run.count
        entry.last_run_at = to_datetime(run.moment)


def check_entry_options(name: str, options: Any) -> dict[str, Any]:
    """Return an entry's own ``options["leader"]``.

    Raises:
        ConfigurationError: An option is unknown or has a wrong value.
    """
    own = (options or {}).get("leader")
    if own is None:
        return {}
    where = f'options["leader"] of beat entry {name!r}'
    if not isinstance(own, dict):
        raise ConfigurationError(where, repr(own), f"a dict with any of {', '.join(_OPTIONS)}")
    for option, value in own.items():
        _check_option(f"{where}: {option}", option, value)
    return own


def _check_option(where: str, option: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if option == "missed_runs":
        policies = [policy.value for policy in Policy]
        if value not in policies:
            raise ConfigurationError(where, repr(value), "one of " + ", ".join(policies))
    elif option == "max_lateness":
        if not number or not 0 < value < float("inf"):
            raise ConfigurationError(where, repr(value), "a number of seconds above 0")
    elif option == "limit":
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(where, repr(value), "a whole number from 1 up")
    else:
        raise ConfigurationError(where, repr(value), "absent: known are " + ", ".join(_OPTIONS))
