"""One batch after the other: what is due is claimed, published and committed.

The order of these steps is the promise: what is claimed is in Redis before it is published, so
whoever leads next finds it; and what is published has the same id whoever publishes it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from celery_safe_leader._beat.agenda import Agenda
from celery_safe_leader._beat.books import now_us
from celery_safe_leader._beat.builder import Builder
from celery_safe_leader._beat.items import Item
from celery_safe_leader._beat.ledger import BATCH, Ledger
from celery_safe_leader._beat.ledger_codec import Claim
from celery_safe_leader._beat.ledger_errors import ClockAheadError, GenerationChangedError
from celery_safe_leader._beat.ledger_results import (
    ClaimOutcome,
    Commit,
    CommitOutcome,
    Next,
    SettlementOutcome,
)
from celery_safe_leader._beat.messages import BuildError, Built, leader_headers
from celery_safe_leader._beat.outcomes import Failed, NotSent, Outcome, Refused, Uncertain
from celery_safe_leader._beat.owed import Owed
from celery_safe_leader._beat.publisher import Publisher
from celery_safe_leader._beat.roster import Roster
from celery_safe_leader._beat.rules import ScheduleError

__all__ = ["Rounds"]

logger = logging.getLogger("celery_safe_leader.beat")

Gate = Callable[[], bool]

_RETRY_SCHEDULE = 60_000_000
"""Microseconds after which a schedule that raised is asked again."""
_LONGEST_WORK = 1.0
_CHECK_EVERY = 1.0
_NOTHING_DUE = 3600.0


@dataclass(slots=True)
class _Job:
    """One occurrence on its way."""

    item: Item
    claim: Claim
    built: Built | None


class Rounds:
    """What is due, claimed, owed and to be committed within one tenure. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self,
        key: str,
        token: int,
        ledger: Ledger,
        roster: Roster,
        builder: Builder,
        publisher: Publisher,
    ) -> None:
        """Begin with nothing due."""
        self._key = key
        self._token = token
        self._ledger = ledger
        self._roster = roster
        self._builder = builder
        self._publisher = publisher
        self._agenda = Agenda()
        self._owed = Owed()
        self._claimed: dict[str, Next] = {}
        self._commits: list[Commit] = []
        self._check_at = 0.0

    @property
    def owed(self) -> int:
        """How many runs were claimed, and have to be settled."""
        return len(self._owed)

    def restart(self) -> None:
        """Begin with what the items say: after they were loaded, or written back."""
        self._owed.clear()
        self._claimed.clear()
        self._commits.clear()
        self.include(self._roster.items)

    def include(self, names: Iterable[str]) -> None:
        """Take up entries that are new or changed, and drop those that are gone."""
        for name in names:
            item = self._roster.items.get(name)
            self._agenda.remove(name)
            if item is None:
                self._owed.discard(name)
                self._claimed.pop(name, None)
                self._builder.forget(name)
            elif item.claim is None:
                self._schedule(item)
            elif name not in self._claimed:
                self._owed.add(item.claim)

    def work(self, may_go_on: Gate) -> float:
        """Do all that is due; return the seconds until something is, or may be tried again."""
        # Not for ever: beat's health check counts ticks, and changes of the schedule wait too.
        until = time.monotonic() + _LONGEST_WORK
        while may_go_on() and self._round() and time.monotonic() < until:
            pass
        if self._commits or time.monotonic() >= self._check_at:
            self.check()
        return self._pause()

    def check(self) -> None:
        """Commit what is left, and see whether the ledger is as it was left.

        What Redis lost must be noticed while there is a memory to write back, also if nothing is
        due for long.
        """
        self._write([])

    def _pause(self) -> float:
        broker = self._owed.broker_pause()
        if broker > 0:
            return broker
        if self._claimed:
            return 0.0
        next_us = self._agenda.next_us()
        due = _NOTHING_DUE if next_us is None else max(0.0, (next_us - now_us()) / 1_000_000)
        again = self._owed.next_in()
        return due if again is None else min(due, again)

    def _round(self) -> bool:
        """Do one batch; tell whether there may be another."""
        if self._owed.broker_pause() > 0:
            return False
        owed = self._owed.ready(BATCH)
        jobs = self._settle(owed) if owed else self._claim()
        if jobs is None:
            return False
        self._publish(jobs)
        return True

    def _schedule(self, item: Item) -> None:
        try:
            self._agenda.put(item.name, item.next_us())
        except Exception as exc:
            self._schedule_failed(item, exc)

    def _schedule_failed(self, item: Item, error: Exception) -> None:
        logger.error(
            "The schedule of entry %r fails: %s. The entry does not run; it is asked again in 60 s",
            item.name,
            error if isinstance(error, ScheduleError) else repr(error),
        )
        self._agenda.put(item.name, now_us() + _RETRY_SCHEDULE)

    def _claim(self) -> list[_Job] | None:
        """Claim the next batch of what is due; commit the last one along with it."""
        jobs = [self._job(item, again.claim) for item, again in self._unclaimed()]
        now = now_us()
        taken = self._agenda.take(now, BATCH - len(jobs))
        for name in taken:
            job = self._due(self._roster.items[name], now)
            if job is not None:
                jobs.append(job)
        if not jobs:
            return [] if taken else None
        for job in jobs:
            name = job.item.name
            if name not in self._claimed:
                self._claimed[name] = Next(job.claim, job.item.run)
            job.item.claim = job.claim
        outcomes = self._write([self._claimed[job.item.name] for job in jobs])
        self._claimed.clear()
        return [job for job, outcome in zip(jobs, outcomes, strict=True) if self._got(job, outcome)]

    def _unclaimed(self) -> list[tuple[Item, Next]]:
        """Return claims of a write that had no answer: the same ones are written again."""
        items = self._roster.items
        return [(items[name], again) for name, again in self._claimed.items() if name in items]

    def _due(self, item: Item, now: int) -> _Job | None:
        try:
            owed = item.plan(now)
        except Exception as exc:
            self._schedule_failed(item, exc)
            return None
        if owed.coalesced or owed.dropped:
            logger.info(
                "Entry %r: %d missed runs coalesce into one, %d are too late to run",
                item.name,
                owed.coalesced,
                owed.dropped,
            )
        if not owed.runs:
            self._agenda.put(item.name, owed.next_due)
            return None
        return self._job(item, item.claim_for(self._key, owed, self._token))

    def _job(self, item: Item, claim: Claim) -> _Job:
        covers = (claim.first, claim.moment)
        headers = leader_headers(self._key, claim.occurrence, self._token, covers)
        try:
            built = self._builder.build(
                item.entry, task_id=claim.occurrence, headers=headers, due_us=claim.moment
            )
        except BuildError as exc:
            self._give_up(exc)
            return _Job(item, claim, None)
        return _Job(item, claim, built)

    def _got(self, job: _Job, outcome: ClaimOutcome) -> bool:
        if outcome is ClaimOutcome.CLAIMED:
            return True
        job.item.claim = None
        if outcome is ClaimOutcome.AHEAD:
            raise ClockAheadError(job.item.name)
        if outcome is ClaimOutcome.NOT_LATER:
            name = job.item.rule.name
            self._schedule_failed(job.item, ScheduleError(name, "gave a moment that is not later"))
            return False
        # Somebody else wrote under our token, or our memory is behind: read it all again.
        raise GenerationChangedError(self._key, f"entry {job.item.name!r} is {outcome.name}")

    def _write(self, claims: list[Next]) -> tuple[ClaimOutcome, ...]:
        written = self._ledger.write(self._commits, claims)
        self._check_at = time.monotonic() + _CHECK_EVERY
        self._commits = []
        if CommitOutcome.DIFFERS in written.commits:
            raise GenerationChangedError(self._key, "a claim of this leader is gone")
        return written.claims

    def _settle(self, owed: list[Claim]) -> list[_Job]:
        """Find out what became of runs that are owed; return those to publish."""
        if self._commits:
            self._write([])
        jobs = []
        for settlement in self._ledger.settle(owed):
            claim = settlement.claim
            item = self._roster.items.get(claim.entry)
            if item is not None and settlement.outcome is SettlementOutcome.OPEN:
                jobs.append(self._job(item, claim))  # owed until it is published
                continue
            self._owed.discard(claim.entry)
            if item is None:
                continue
            if settlement.outcome is not SettlementOutcome.ACCEPTED:
                raise GenerationChangedError(self._key, f"the claim of {item.name!r} is gone")
            self._done(item, claim)
        return jobs

    def _publish(self, jobs: list[_Job]) -> None:
        for job in jobs:
            if job.built is None:
                self._done(job.item, job.claim)
        sendable = [job for job in jobs if job.built is not None]
        batch = [job.built for job in sendable if job.built is not None]
        if not batch:
            return
        failed: list[Claim] = []
        trouble: Failed | Uncertain | None = None
        for job, outcome in zip(sendable, self._publisher.publish(batch), strict=True):
            if isinstance(outcome, Failed | Uncertain):
                failed.append(job.claim)
                trouble = outcome
            else:
                self._published(job, outcome)
        if trouble is not None:
            self._owed.failed(failed, trouble.error, reached=trouble.reached)

    def _published(self, job: _Job, outcome: Outcome) -> None:
        """Take in what became of a message with which the broker had no trouble."""
        if isinstance(outcome, NotSent):
            self._owed.add(job.claim)
            return
        if isinstance(outcome, Refused):
            self._give_up(outcome.error)
        else:
            self._owed.published()
        self._done(job.item, job.claim)

    def _give_up(self, error: BuildError) -> None:
        # Permanent: the same arguments fail again. It is committed unpublished.
        logger.error("%s. This run is given up; the entry goes on", error)

    def _done(self, item: Item, claim: Claim) -> None:
        self._owed.discard(item.name)
        item.claim = None
        run = item.committed(claim)
        item.take(run)
        self._commits.append(Commit(claim, run))
        self._schedule(item)
