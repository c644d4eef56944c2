"""One batch after the other: due runs are claimed, published and committed.

The order of these steps is the promise: a run is claimed in Redis before it is published, so
whoever leads next finds it; and its message has the same id whoever publishes it.

Everything but the publication is done a little early, where the moment is known: at the moment
itself a burst of runs only has to be written to the broker. Never before it, by this machine's
clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial

from celery_safe_leader._dispatch.claims import Claims
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.outcomes import Failed, NotSent, Outcome, Refused, Uncertain
from celery_safe_leader._dispatch.ports import MessageBuilder, MessagePublisher, Schedule
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._dispatch.unsettled import Unsettled
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._ledger.errors import GenerationChangedError
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import SettlementOutcome
from celery_safe_leader._schedules.moments import SECOND_US, now_us

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
    """The work of one tenure: due runs, claimed, unsettled and to be committed. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self,
        tenure: Tenure,
        ledger: Ledger,
        schedule: Schedule,
        builder: MessageBuilder,
        publisher: MessagePublisher,
    ) -> None:
        self._tenure = tenure
        self._ledger = ledger
        self._schedule = schedule
        self._publisher = publisher
        self._claims = Claims(tenure, ledger, schedule, builder)
        self._unsettled = Unsettled()

    @property
    def unsettled(self) -> int:
        """How many runs were claimed and have to be settled."""
        return len(self._unsettled)

    def restart(self) -> None:
        """Start from what the entries say: after they were loaded, or the ledger was restored."""
        self._unsettled.clear()
        self._claims.clear()
        self.include(self._schedule.entries)

    def withdraw(self, names: Iterable[str]) -> None:
        """Take back the waiting claims of entries that change. ``flush`` tells the ledger."""
        self._claims.withdraw(names)

    def flush(self) -> None:
        """Write the commits that are left, if there are any."""
        self._claims.flush()

    def include(self, names: Iterable[str]) -> None:
        """Add entries that are new or changed, and drop those that are gone."""
        for name in names:
            claim = self._claims.include(name)
            if claim is not None:
                self._unsettled.add(claim)
            elif name not in self._schedule.entries:
                self._unsettled.discard(name)

    def work(self) -> float:
        """Do all that is due; return the seconds until something is, or may be tried again."""
        # Not for ever: beat's health check counts ticks, and changes of the schedule wait too.
        until = time.monotonic() + _LONGEST_WORK
        while self._tenure.still_leads() and self._round() and time.monotonic() < until:
            pass
        if self._claims.must_check:
            self._claims.check()
        return self._pause()

    def finish(self) -> None:
        """Leave as little as possible for the next leader to settle."""
        self._claims.withdraw()
        self._claims.check()

    def _pause(self) -> float:
        broker = self._unsettled.broker_pause()
        if broker > 0:
            return broker
        if self._claims.is_unanswered:
            return 0.0
        now, pause = now_us(), _NOTHING_DUE
        next_us = self._claims.timetable.next_us()
        if next_us is not None:
            pause = (next_us - now) / SECOND_US
        waiting_us = self._claims.waiting.next_us()
        if waiting_us is not None:
            pause = min(pause, (waiting_us - now) / SECOND_US - self._lead_in())
        again = self._unsettled.next_in()
        return max(0.0, pause if again is None else min(pause, again))

    def _round(self) -> bool:
        """Do one batch; return whether there may be another."""
        if self._unsettled.broker_pause() > 0:
            return False
        unsettled = self._unsettled.ready(BATCH)
        if unsettled:
            self._publish(self._settle(unsettled))
            return True
        first = self._claims.waiting.next_us()
        if first is not None and first <= now_us():
            # Before the next claims: the ledger may be slow, or away.
            return self._publish_waiting()
        claimed = self._claims.claim()
        return self._publish_waiting() or claimed

    def _settle(self, claims: list[Claim]) -> list[Run]:
        """Find out what became of unsettled claims; return the runs to publish now."""
        self._claims.flush()
        runs: list[Run] = []
        early: list[Run] = []
        for settlement in self._ledger.settle(claims):
            claim = settlement.claim
            entry = self._schedule.entries.get(claim.entry)
            if entry is not None and settlement.outcome is SettlementOutcome.OPEN:
                run = self._claims.make_run(entry, claim, is_fresh=False)
                (early if claim.moment > now_us() else runs).append(run)
                continue  # unsettled until it is published
            self._unsettled.discard(claim.entry)
            if entry is None:
                continue
            if settlement.outcome is not SettlementOutcome.ACCEPTED:
                raise GenerationChangedError(
                    self._ledger.key, f"the claim of {entry.name!r} is gone"
                )
            self._complete(entry, claim)
        for run in early:  # another leader claimed it, and left it before its moment came
            self._unsettled.discard(run.entry.name)
        self._claims.waiting.add(early)
        return runs

    def _lead_in(self) -> float:
        return min(_LONGEST_LEAD_IN, _LEAD_IN + _LEAD_IN_EACH * len(self._claims.waiting))

    def _publish_waiting(self) -> bool:
        """Publish the runs whose moment has come, or is so near that it is waited for."""
        first, now = self._claims.waiting.next_us(), now_us()
        if first is None or first > now + self._lead_in() * SECOND_US:
            return False
        if first > now and self._claims.timetable.has_before(first):
            return True  # there is time to claim the rest of them
        runs = self._claims.waiting.pop_due(max(first, now), _MOST_TOGETHER)
        if first > now:
            self._publish(runs, first)
        else:
            self._publish([run for run in runs if not self._is_too_late(run, now)])
        return True

    def _is_too_late(self, run: Run, now: int) -> bool:
        """Return a run that is now too late to the missed-run policy; tell whether it was."""
        if not run.is_fresh or now - run.claim.moment <= run.entry.lateness_us:
            return False
        self._claims.take_back(run)
        self._claims.timetable.schedule(run.entry)
        return True

    def _wait(self, moment: int) -> bool:
        """Wait for a moment that is near; return whether it has come."""
        until = time.monotonic() + 2 * _LONGEST_LEAD_IN
        while (left := moment - now_us()) > 0:
            # A clock that was set back makes it far away.
            if not self._tenure.still_leads() or time.monotonic() > until:
                return False
            time.sleep(min(left / SECOND_US, _LOOK_EVERY))
        return True

    def _may_write(self, moment: int) -> bool:
        """Wait for a moment that is near; return whether it has come, and the tenure goes on."""
        return self._wait(moment) and self._tenure.still_leads()

    def _publish(self, runs: list[Run], moment: int = 0) -> None:
        """Publish runs, not before the moment."""
        built = [run for run in runs if run.state is RunState.BUILT]
        if built:
            self._send(built, moment)
        rest = [run for run in runs if run.state is not RunState.BUILT]
        if not rest:
            return
        if not self._wait(moment) or self._unsettled.broker_pause() > 0:
            for run in rest:
                self._put_back(run)
            return
        for run in rest:
            if run.state is RunState.CLAIMED:
                self._claims.build(run)
            if run.state is RunState.GIVEN_UP:
                self._complete(run.entry, run.claim)
        built = [run for run in rest if run.state is RunState.BUILT]
        if built:
            self._send(built)

    def _send(self, runs: list[Run], moment: int = 0) -> None:
        """Hand built runs to the publisher, and handle the outcome of each."""
        outcomes = self._publisher.publish(
            [run.message for run in runs], partial(self._may_write, moment)
        )
        failed: list[Claim] = []
        trouble: Failed | Uncertain | None = None
        for run, outcome in zip(runs, outcomes, strict=True):
            if isinstance(outcome, Failed | Uncertain):
                failed.append(run.claim)
                trouble = outcome
            else:
                self._published(run, outcome)
        if trouble is not None:
            self._unsettled.failed(failed, trouble.error, reached=trouble.reached)

    def _published(self, run: Run, outcome: Outcome) -> None:
        """Handle the outcome of a message that the broker did not reject."""
        if isinstance(outcome, NotSent):
            self._put_back(run)
            return
        if isinstance(outcome, Refused):
            self._claims.log_given_up(outcome.error)
        else:
            self._unsettled.published()
        self._complete(run.entry, run.claim)

    def _put_back(self, run: Run) -> None:
        """Keep a run that did not get its turn: unsettled, if others may know of it."""
        if run.is_fresh:
            self._claims.waiting.add([run])
        else:
            self._unsettled.add(run.claim)

    def _complete(self, entry: Entry, claim: Claim) -> None:
        self._unsettled.discard(entry.name)
        self._claims.complete(entry, claim)
