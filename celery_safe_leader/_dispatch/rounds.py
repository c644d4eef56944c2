"""One batch after the other: what is due is claimed, published and committed.

The order of these steps is the promise: what is claimed is in Redis before it is published, so
whoever leads next finds it; and what is published has the same id whoever publishes it.

All but the publication is done a little early, where the moment is known: at the moment itself a
burst of runs only has to be written to the broker. Never before it, by this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from celery_safe_leader._dispatch.claims import Claims
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import Failed, NotSent, Outcome, Refused, Uncertain
from celery_safe_leader._dispatch.ports import Gate, MessageBuilder, MessagePublisher, Schedule
from celery_safe_leader._dispatch.unsettled import Unsettled
from celery_safe_leader._dispatch.waiting import Run
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._ledger.errors import GenerationChangedError
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import SettlementOutcome
from celery_safe_leader._schedules.moments import now_us

__all__ = ["Rounds"]

_LONGEST_WORK = 1.0
_NOTHING_DUE = 3600.0
_LEAD_IN = 0.02
_LEAD_IN_EACH = 0.000_25
_LONGEST_LEAD_IN = 0.1
"""A group of messages is handed to the producer this long before its moment: so much, and for each
of them so much more, up to the longest; that is how long the broker's client takes for them."""
_LOOK_EVERY = 0.005
"""All in seconds."""
_MOST_TOGETHER = 1_000
"""Messages handed to the producer at once."""


class Rounds:
    """What is due, claimed, owed and to be committed within one tenure. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self,
        key: str,
        token: int,
        ledger: Ledger,
        roster: Schedule,
        builder: MessageBuilder,
        publisher: MessagePublisher,
    ) -> None:
        """Begin with nothing due."""
        self._key = key
        self._ledger = ledger
        self._roster = roster
        self._publisher = publisher
        self._claims = Claims(key, token, ledger, roster, builder)
        self._owed = Unsettled()
        self._may_go_on: Gate = lambda: True

    @property
    def owed(self) -> int:
        """How many runs were claimed, and have to be settled."""
        return len(self._owed)

    def restart(self) -> None:
        """Begin with what the items say: after they were loaded, or written back."""
        self._owed.clear()
        self._claims.clear()
        self.include(self._roster.items)

    def withdraw(self, names: Iterable[str]) -> None:
        """Take back what was claimed of entries that change. ``flush`` tells the ledger."""
        self._claims.withdraw(names)

    def flush(self) -> None:
        """Write what is left, if anything is."""
        self._claims.flush()

    def include(self, names: Iterable[str]) -> None:
        """Take up entries that are new or changed, and drop those that are gone."""
        for name in names:
            claim = self._claims.include(name)
            if claim is not None:
                self._owed.add(claim)
            elif name not in self._roster.items:
                self._owed.discard(name)

    def work(self, may_go_on: Gate) -> float:
        """Do all that is due; return the seconds until something is, or may be tried again."""
        self._may_go_on = may_go_on
        # Not for ever: beat's health check counts ticks, and changes of the schedule wait too.
        until = time.monotonic() + _LONGEST_WORK
        while may_go_on() and self._round() and time.monotonic() < until:
            pass
        if self._claims.must_check:
            self.check()
        return self._pause()

    def check(self) -> None:
        """Commit what is left, and see whether the ledger is as it was left."""
        self._claims.check()

    def finish(self) -> None:
        """Leave as little as can be for the next leader to settle."""
        self._claims.withdraw()
        self._claims.check()

    def _pause(self) -> float:
        broker = self._owed.broker_pause()
        if broker > 0:
            return broker
        if self._claims.is_unanswered:
            return 0.0
        now, pause = now_us(), _NOTHING_DUE
        next_us = self._claims.timetable.next_us()
        if next_us is not None:
            pause = (next_us - now) / 1_000_000
        held_us = self._claims.held.next_us()
        if held_us is not None:
            pause = min(pause, (held_us - now) / 1_000_000 - self._lead_in())
        again = self._owed.next_in()
        return max(0.0, pause if again is None else min(pause, again))

    def _round(self) -> bool:
        """Do one batch; tell whether there may be another."""
        if self._owed.broker_pause() > 0:
            return False
        owed = self._owed.ready(BATCH)
        if owed:
            self._publish(self._settle(owed))
            return True
        first = self._claims.held.next_us()
        if first is not None and first <= now_us():
            # Before the next claims: the ledger may be slow, or away.
            return self._publish_held()
        claimed = self._claims.claim()
        return self._publish_held() or claimed

    def _settle(self, owed: list[Claim]) -> list[Run]:
        """Find out what became of runs that are owed; return those to publish now."""
        self._claims.flush()
        jobs: list[Run] = []
        early: list[Run] = []
        for settlement in self._ledger.settle(owed):
            claim = settlement.claim
            item = self._roster.items.get(claim.entry)
            if item is not None and settlement.outcome is SettlementOutcome.OPEN:
                job = self._claims.job(item, claim, is_fresh=False)
                (early if claim.moment > now_us() else jobs).append(job)
                continue  # owed until it is published
            self._owed.discard(claim.entry)
            if item is None:
                continue
            if settlement.outcome is not SettlementOutcome.ACCEPTED:
                raise GenerationChangedError(self._key, f"the claim of {item.name!r} is gone")
            self._done(item, claim)
        for job in early:  # another leader claimed it, and left it before its moment came
            self._owed.discard(job.item.name)
        self._claims.held.add(early)
        return jobs

    def _lead_in(self) -> float:
        return min(_LONGEST_LEAD_IN, _LEAD_IN + _LEAD_IN_EACH * len(self._claims.held))

    def _publish_held(self) -> bool:
        """Publish those whose moment has come, or wait for it if it is that near."""
        first, now = self._claims.held.next_us(), now_us()
        if first is None or first > now + self._lead_in() * 1_000_000:
            return False
        if first > now and self._claims.timetable.has_before(first):
            return True  # there is time to claim the rest of them
        jobs = self._claims.held.take(max(first, now), _MOST_TOGETHER)
        if first > now:
            self._publish(jobs, first)
        else:
            self._publish([job for job in jobs if not self._is_too_late(job, now)])
        return True

    def _is_too_late(self, job: Run, now: int) -> bool:
        """Give a run back to its policy that waited in vain for longer than the entry allows."""
        if not job.is_fresh or now - job.claim.moment <= job.item.lateness_us:
            return False
        self._claims.take_back(job)
        self._claims.timetable.schedule(job.item)
        return True

    def _wait(self, moment: int) -> bool:
        """Wait for a moment that is near; tell whether it has come."""
        until = time.monotonic() + 2 * _LONGEST_LEAD_IN
        while (left := moment - now_us()) > 0:
            # A clock that was set back makes it far away.
            if not self._may_go_on() or time.monotonic() > until:
                return False
            time.sleep(min(left / 1_000_000, _LOOK_EVERY))
        return True

    def _publish(self, jobs: list[Run], moment: int = 0) -> None:
        """Publish runs, not before the moment."""
        built = [job for job in jobs if job.built is not None]
        if built:
            self._send(built, partial(self._wait, moment))
        rest = [job for job in jobs if job.built is None]
        if not rest:
            return
        if not self._wait(moment) or self._owed.broker_pause() > 0:
            for job in rest:
                self._put_back(job)
            return
        for job in rest:
            if not job.given_up:
                self._claims.build(job)
            if job.given_up:
                self._done(job.item, job.claim)
        built = [job for job in rest if job.built is not None]
        if built:
            self._send(built)

    def _send(self, jobs: list[Run], hold: Gate | None = None) -> None:
        batch = [job.built for job in jobs if job.built is not None]
        failed: list[Claim] = []
        trouble: Failed | Uncertain | None = None
        for job, outcome in zip(jobs, self._publisher.publish(batch, hold=hold), strict=True):
            if isinstance(outcome, Failed | Uncertain):
                failed.append(job.claim)
                trouble = outcome
            else:
                self._published(job, outcome)
        if trouble is not None:
            self._owed.failed(failed, trouble.error, reached=trouble.reached)

    def _published(self, job: Run, outcome: Outcome) -> None:
        """Take in what became of a message with which the broker had no trouble."""
        if isinstance(outcome, NotSent):
            self._put_back(job)
            return
        if isinstance(outcome, Refused):
            self._claims.give_up(outcome.error)
        else:
            self._owed.published()
        self._done(job.item, job.claim)

    def _put_back(self, job: Run) -> None:
        """Keep a run that did not get its turn: held, or owed if others may know of it."""
        if job.is_fresh:
            self._claims.held.add([job])
        else:
            self._owed.add(job.claim)

    def _done(self, item: Entry, claim: Claim) -> None:
        self._owed.discard(item.name)
        self._claims.done(item, claim)
