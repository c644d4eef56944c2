"""Claims of one tenure: due runs are claimed in the ledger, and finished ones are committed.

An entry is either on the timetable, or it has a claimed run: this waits for its moment, or is on
its way to the broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._dispatch.ports import MessageBuilder, Schedule
from celery_safe_leader._dispatch.run import Run
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._dispatch.timetable import Timetable
from celery_safe_leader._dispatch.waiting import Waiting
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._ledger.errors import ClockAheadError, GenerationChangedError
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import ClaimOutcome, Commit, CommitOutcome, Next
from celery_safe_leader._schedules.moments import now_us
from celery_safe_leader._schedules.rule import ScheduleError

__all__ = ["Claims"]

logger = logging.getLogger("celery_safe_leader.beat")

_CHECK_EVERY = 1.0
"""Seconds."""


class Claims:
    """Claims and commits of one tenure. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self, tenure: Tenure, ledger: Ledger, schedule: Schedule, builder: MessageBuilder
    ) -> None:
        self.timetable = Timetable()
        self.waiting = Waiting()
        self._key = ledger.key
        self._token = tenure.token
        self._ledger = ledger
        self._schedule = schedule
        self._builder = builder
        self._unanswered: dict[str, Next] = {}
        self._commits: list[Commit] = []
        self._check_at = 0.0

    def clear(self) -> None:
        """Drop everything under way, to start again from what the entries say."""
        self.waiting.clear()
        self._unanswered.clear()
        self._commits.clear()

    def include(self, name: str) -> Claim | None:
        """Put an entry that is new or changed on the timetable, or drop one that is gone.

        Returns:
            The claim of the entry, if it has one that has to be settled first.
        """
        entry = self._schedule.entries.get(name)
        self.timetable.remove(name)
        if entry is None:
            self._unanswered.pop(name, None)
            self._builder.forget(name)
        elif entry.claim is None:
            self.timetable.schedule(entry)
        elif name not in self._unanswered:
            return entry.claim
        return None

    @property
    def is_unanswered(self) -> bool:
        """Whether it is not known if the last claims were written."""
        return bool(self._unanswered)

    @property
    def must_check(self) -> bool:
        """Whether commits are left, or the ledger has not been looked at for long."""
        return bool(self._commits) or time.monotonic() >= self._check_at

    def check(self) -> None:
        """Write the commits that are left, and check that the ledger is as this leader left it.

        What Redis lost must be noticed while there is a memory to restore it from, even if nothing
        is due for long.
        """
        self.write([])
        while self._commits:
            self.write([])

    def flush(self) -> None:
        """Write the commits that are left, if there are any."""
        if self._commits:
            self.check()

    def claim(self) -> bool:
        """Claim the next batch of runs that are due, or soon will be; commit along with it.

        Returns:
            Whether there was anything to look at.
        """
        while len(self._commits) > BATCH:
            self.write([])
        runs = [self.make_run(entry, again.claim) for entry, again in self._to_repeat()]
        due = self.timetable.pop_due(now_us(), BATCH - len(runs))
        for moment, name in due:
            run = self._due_run(self._schedule.entries[name], moment)
            if run is not None:
                runs.append(run)
        if not runs:
            return bool(due)
        for run in runs:
            name = run.entry.name
            if name not in self._unanswered:
                self._unanswered[name] = Next(run.claim, run.entry.last_run)
            run.entry.claim = run.claim
        outcomes = self.write([self._unanswered[run.entry.name] for run in runs])
        self._unanswered.clear()
        self.waiting.add(
            [run for run, outcome in zip(runs, outcomes, strict=True) if self._has(run, outcome)]
        )
        return True

    def make_run(self, entry: Entry, claim: Claim, *, is_fresh: bool = True) -> Run:
        """Return the run of a claim; with its message, if that need not wait for the moment."""
        run = Run(entry, claim, is_fresh)
        if claim.moment <= now_us() or self._builder.is_steady(entry.source):
            self.build(run)
        return run

    def build(self, run: Run) -> None:
        """Build the message of a run, or give the run up."""
        try:
            run.built(self._builder.build_run(run.entry.source, run.claim, self._token))
        except BuildError as exc:
            run.give_up()
            self.log_given_up(exc)

    def write(self, claims: list[Next]) -> tuple[ClaimOutcome, ...]:
        """Write claims, and along with them as many commits as there is room for."""
        commits = self._commits[: 2 * BATCH - len(claims)]
        written = self._ledger.write(commits, claims)
        self._check_at = time.monotonic() + _CHECK_EVERY
        del self._commits[: len(commits)]
        if CommitOutcome.DIFFERS in written.commits:
            raise GenerationChangedError(self._key, "a claim of this leader is gone")
        return written.claims

    def withdraw(self, names: Iterable[str] | None = None) -> None:
        """Take back the claims of this tenure that still wait; of some entries, or of all.

        The next write tells the ledger.
        """
        for run in self.waiting.withdraw(names):
            if run.is_fresh:
                self.take_back(run)

    def take_back(self, run: Run) -> None:
        """Take back the claim of a run of which nothing was handed to the broker."""
        # Recording the run that was recorded before leaves nothing of the claim.
        if run.entry.last_run is not None:
            self._commits.append(Commit(run.claim, run.entry.last_run))
        run.entry.claim = None

    def log_given_up(self, error: BuildError) -> None:
        """Log that a run can never be published."""
        # Permanent: the same arguments fail again. It is committed unpublished.
        logger.error("%s. This run is given up; the entry continues", error)

    def complete(self, entry: Entry, claim: Claim) -> None:
        """Commit a run that was published or given up, and schedule the next one."""
        entry.claim = None
        last_run = entry.last_run_after(claim)
        entry.set_last_run(last_run)
        self._commits.append(Commit(claim, last_run))
        self.timetable.schedule(entry)

    def _to_repeat(self) -> list[tuple[Entry, Next]]:
        """Return the claims of a write without a reply: exactly these are written again."""
        entries = self._schedule.entries
        return [
            (entries[name], again) for name, again in self._unanswered.items() if name in entries
        ]

    def _due_run(self, entry: Entry, moment: int) -> Run | None:
        """Return the run of an entry that is due at a moment, if there is one."""
        try:
            due = entry.due_runs(moment)
        except Exception as exc:
            self.timetable.failed(entry, exc)
            return None
        if due.coalesced or due.dropped:
            logger.info(
                "Entry %r: %d missed runs coalesce into one, %d are too late to run",
                entry.name,
                due.coalesced,
                due.dropped,
            )
        if not due.runs:
            self.timetable.put(entry, due.next_due)
            return None
        return self.make_run(entry, entry.claim_for(self._key, due, self._token))

    def _has(self, run: Run, outcome: ClaimOutcome) -> bool:
        """Return whether a run is claimed now."""
        if outcome is ClaimOutcome.CLAIMED:
            return True
        entry = run.entry
        entry.claim = None
        if outcome is ClaimOutcome.AHEAD:
            raise ClockAheadError(entry.name)
        if outcome is ClaimOutcome.NOT_LATER:
            detail = "returned a moment that is not later than its last run"
            self.timetable.failed(entry, ScheduleError(entry.rule.name, detail))
            return False
        # Somebody else wrote under our token, or our memory is behind: read it all again.
        raise GenerationChangedError(self._key, f"entry {entry.name!r} is {outcome.name}")
