"""Claims of one tenure: what is due is claimed in the ledger, and what is done is committed.

An entry is on its timetable, or claimed: then it is held until its moment comes, or somewhere on
its way to the broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._dispatch.ports import MessageBuilder, Schedule
from celery_safe_leader._dispatch.timetable import Timetable
from celery_safe_leader._dispatch.waiting import Run, Waiting
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
    """Claims and commits of one leader. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self, key: str, token: int, ledger: Ledger, roster: Schedule, builder: MessageBuilder
    ) -> None:
        """Begin with nothing due."""
        self.timetable = Timetable()
        self.held = Waiting()
        self._key = key
        self._token = token
        self._ledger = ledger
        self._roster = roster
        self._builder = builder
        self._claimed: dict[str, Next] = {}
        self._commits: list[Commit] = []
        self._check_at = 0.0

    def clear(self) -> None:
        """Forget what is under way, to begin with what the items say."""
        self.held.clear()
        self._claimed.clear()
        self._commits.clear()

    def include(self, name: str) -> Claim | None:
        """Take up an entry that is new or changed, or drop one that is gone.

        Returns:
            A claim of it of which it has to be found out what became.
        """
        item = self._roster.items.get(name)
        self.timetable.remove(name)
        if item is None:
            self._claimed.pop(name, None)
            self._builder.forget(name)
        elif item.claim is None:
            self.timetable.schedule(item)
        elif name not in self._claimed:
            return item.claim
        return None

    @property
    def is_unanswered(self) -> bool:
        """Whether nobody knows if the last claims were written."""
        return bool(self._claimed)

    @property
    def must_check(self) -> bool:
        """Whether there are commits left, or the ledger was not looked at for long."""
        return bool(self._commits) or time.monotonic() >= self._check_at

    def check(self) -> None:
        """Commit what is left, and see whether the ledger is as it was left.

        What Redis lost must be noticed while there is a memory to write back, also if nothing is
        due for long.
        """
        self.write([])
        while self._commits:
            self.write([])

    def flush(self) -> None:
        """Write the commits that are left, if there are any."""
        if self._commits:
            self.check()

    def claim(self) -> bool:
        """Claim the next batch of what is due, or soon; commit along with it.

        Returns:
            Whether there was anything to look at.
        """
        while len(self._commits) > BATCH:
            self.write([])
        jobs = [self.job(item, again.claim) for item, again in self._unclaimed()]
        now = now_us()
        taken = self.timetable.take(now, BATCH - len(jobs))
        for moment, name in taken:
            job = self._due(self._roster.items[name], moment)
            if job is not None:
                jobs.append(job)
        if not jobs:
            return bool(taken)
        for job in jobs:
            name = job.item.name
            if name not in self._claimed:
                self._claimed[name] = Next(job.claim, job.item.run)
            job.item.claim = job.claim
        outcomes = self.write([self._claimed[job.item.name] for job in jobs])
        self._claimed.clear()
        self.held.add(
            [job for job, outcome in zip(jobs, outcomes, strict=True) if self._got(job, outcome)]
        )
        return True

    def job(self, item: Entry, claim: Claim, *, is_fresh: bool = True) -> Run:
        """Begin with a claimed run; build its message, if that need not wait for its moment."""
        job = Run(item, claim, is_fresh=is_fresh)
        if claim.moment <= now_us() or self._builder.is_steady(item.source):
            self.build(job)
        return job

    def build(self, job: Run) -> None:
        """Build the message of a run, or give it up."""
        try:
            job.built = self._builder.build_run(job.item.source, job.claim, self._token)
        except BuildError as exc:
            job.given_up = True
            self.give_up(exc)

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
        """Take back what was claimed here and was not due yet, of some entries or of all.

        The next write tells the ledger.
        """
        for job in self.held.withdraw(names):
            if job.is_fresh:
                self.take_back(job)

    def take_back(self, job: Run) -> None:
        """Take back a claim of which nothing was handed to the broker."""
        # Recording the run that was recorded before leaves nothing of the claim.
        if job.item.run is not None:
            self._commits.append(Commit(job.claim, job.item.run))
        job.item.claim = None

    def give_up(self, error: BuildError) -> None:
        """Name a run that can never be published."""
        # Permanent: the same arguments fail again. It is committed unpublished.
        logger.error("%s. This run is given up; the entry goes on", error)

    def done(self, item: Entry, claim: Claim) -> None:
        """Go on behind a run that was published, or given up."""
        item.claim = None
        run = item.committed(claim)
        item.take(run)
        self._commits.append(Commit(claim, run))
        self.timetable.schedule(item)

    def _unclaimed(self) -> list[tuple[Entry, Next]]:
        """Return claims of a write that had no answer: the same ones are written again."""
        items = self._roster.items
        return [(items[name], again) for name, again in self._claimed.items() if name in items]

    def _due(self, item: Entry, moment: int) -> Run | None:
        """Return the run of an entry that is owed at a moment, if there is one."""
        try:
            owed = item.due_runs(moment)
        except Exception as exc:
            self.timetable.failed(item, exc)
            return None
        if owed.coalesced or owed.dropped:
            logger.info(
                "Entry %r: %d missed runs coalesce into one, %d are too late to run",
                item.name,
                owed.coalesced,
                owed.dropped,
            )
        if not owed.runs:
            self.timetable.put(item, owed.next_due)
            return None
        return self.job(item, item.claim_for(self._key, owed, self._token))

    def _got(self, job: Run, outcome: ClaimOutcome) -> bool:
        if outcome is ClaimOutcome.CLAIMED:
            return True
        job.item.claim = None
        if outcome is ClaimOutcome.AHEAD:
            raise ClockAheadError(job.item.name)
        if outcome is ClaimOutcome.NOT_LATER:
            name = job.item.rule.name
            self.timetable.failed(job.item, ScheduleError(name, "gave a moment that is not later"))
            return False
        # Somebody else wrote under our token, or our memory is behind: read it all again.
        raise GenerationChangedError(self._key, f"entry {job.item.name!r} is {outcome.name}")
