"""One batch of runs after the other, from the timetable to the broker.

Messages are built a little early, in memory, where the moment is known: at the moment itself a
burst of runs only has to be written. Nothing is written before it, by this machine's clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from celery_safe_leader._core.steps import Steps
from celery_safe_leader._dispatch.called.called_runs import CalledRuns, RoundsPart
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.health.isolation import publish_isolated
from celery_safe_leader._dispatch.health.patience import Cause, Patience
from celery_safe_leader._dispatch.health.user_calls import (
    CallHangsError,
    CallQuestion,
    UserCall,
    UserCalls,
)
from celery_safe_leader._dispatch.outbox import Outbox
from celery_safe_leader._dispatch.outcomes import NotPublishedError
from celery_safe_leader._dispatch.ports import (
    Making,
    MessageBuilder,
    MessagePublisher,
    Schedule,
)
from celery_safe_leader._dispatch.records import Records
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._dispatch.timetable import Timetable
from celery_safe_leader._dispatch.unsettled import Unsettled
from celery_safe_leader._dispatch.waiting import Waiting
from celery_safe_leader._dispatch.ways.publication import Transactional, WriteAhead
from celery_safe_leader._dispatch.ways.way_choice import WayChoice
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import SettlementOutcome
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.missed import DueRuns
from celery_safe_leader._schedules.moments import MINUTE_US, SECOND_US, now_us
from celery_safe_leader._schedules.rule import ScheduleError
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["Rounds"]

_LONGEST_WORK = 1.0
_NOTHING_DUE = 3600.0
_LEAD_IN = 0.02
_LEAD_IN_EACH = 0.000_25
_LONGEST_LEAD_IN = 0.1
"""A group of runs is handed over this long before its moment: so much, and for each of them so
much more, up to the longest; that is how long it takes until only the write is left."""
_LOOK_EVERY = 0.005
_AWAKE = 0.000_2
"""So long before the moment nobody sleeps any more: who sleeps is woken up to 0.2 ms late."""
_LOOK_AT_CALLS = 0.1
"""All in seconds."""
_HELD_BACK_US = SECOND_US
"""Microseconds after which a run that was held back is looked at again."""
_CALL_AGAIN_US = SECOND_US // 10
"""Microseconds after which Celery's code is called again for a run that could not be published."""
_MOST_TOGETHER = 1_000
"""Runs handed over at once."""
_LATE_TOGETHER = 250
"""The same if they are late already: Redis publishes these while the next ones are built."""


class Rounds:
    """The queues of one tenure: which runs are where, and whose turn it is. For one thread.

    The methods raise what the ledger's do.
    """

    def __init__(
        self,
        tenure: Tenure,
        ledger: Ledger,
        schedule: Schedule,
        builder: MessageBuilder,
        publisher: MessagePublisher,
        patience: Patience,
        calls: UserCalls,
        watch: ClockWatch,
        timetable: Timetable,
        *,
        must_claim: str = "",
        events: RunEvents | None = None,
    ) -> None:
        """Start a tenure without any run; include the entries that may run.

        Args:
            tenure: Under which runs are published.
            ledger: Adopted for it.
            schedule: The entries.
            builder: Builds messages.
            publisher: Gets them to the broker.
            patience: Is told what is published, and what fails.
            calls: Makes calls of user code. It outlives the tenure.
            watch: Compares this machine's clock with Redis's.
            timetable: With the entries that need not be included any more.
            must_claim: Why every run has to be claimed before it is published; or empty.
            events: Is told what becomes of runs.
        """
        self._events = events or RunEvents()
        self._tenure = tenure
        self._key = ledger.key
        self._schedule = schedule
        self._builder = builder
        self._timetable = timetable
        self._waiting = Waiting()
        self._unsettled = Unsettled()
        self._doubtful: set[str] = set()
        self._untold: dict[str, Run] = {}  # dropped; the ledger may hold them all the same
        self._watch = watch
        self._records = Records(ledger, watch, tenure.look)
        self._patience = patience
        self._calls = calls
        self._began = time.monotonic()
        self._in_calls: dict[str, _InCall] = {}
        self._held: set[str] = set()
        self._set_aside: set[str] = set()
        self._failed_meanwhile: Exception | None = None
        self._outbox = Outbox(
            tenure, builder, publisher, self._unsettled, patience, calls, self._keep, self._events
        )
        self._publisher = publisher
        self._way = WayChoice(ledger, publisher, self._outbox.failed, must_claim)
        self._transactional = Transactional(
            self._records, self._outbox, self._way, self._build_meanwhile
        )
        self._write_ahead = WriteAhead(self._records, self._outbox, tenure.still_leads)
        self._called = CalledRuns(
            tenure,
            builder,
            publisher,
            self._records,
            self._outbox,
            calls,
            patience,
            RoundsPart(self._publish_called, self._sort, self._keep_entry, self._is_late_now),
        )
        builder.begin()

    @property
    def unsettled(self) -> int:
        """How many runs were claimed and have to be settled."""
        return len(self._unsettled)

    @property
    def overdue(self) -> float:
        """How many seconds the run is late that is the most overdue; 0 if none is.

        Until it is done, missed or given up; also while its schedule raises. From any thread.
        """
        moments = (self._timetable.oldest_us(), self._unsettled.oldest_us())
        oldest = min((each for each in moments if each is not None), default=None)
        return 0.0 if oldest is None else max(0.0, (now_us() - oldest) / SECOND_US)

    def summary(self, most: int) -> dict[str, Any]:
        """Return what was done and what comes next, for people; in JSON's types. From any thread.

        Args:
            most: How many moments to come are named.
        """
        tally = self._outbox.tally
        return {
            "entries": len(self._schedule.entries),
            "unsettled": self.unsettled,
            "published": tally.published,
            "given_up": tally.given_up,
            "missed": tally.missed,
            "lateness": tally.lateness,
            "way": self._way.name,
            "next": self._timetable.first(most),
        }

    def restart(self) -> None:
        """Start from what the entries say, after the ledger was restored."""
        self._unsettled.clear()
        self._waiting.clear()
        self._records.clear()
        self._called.end()
        self._doubtful.clear()
        self._in_calls.clear()
        self._held.clear()
        self.include(self._schedule.entries)

    def resolve_unanswered(self) -> None:
        """Take for done what a lost ledger still shows; before the memory is written back."""
        for run in self._records.resolve_unanswered():
            self._tell_recorded(run)

    def withdraw(self, names: Collection[str]) -> None:
        """Drop what is built of entries that change."""
        self._waiting.withdraw(names)
        for name in names:
            self._in_calls.pop(name, None)
            self._called.forget(name)

    def end(self) -> None:
        """Let nobody wait any more for what becomes of these runs."""
        self._called.end()

    @property
    def is_unanswered(self) -> bool:
        """Whether it is not known of some runs if they were published or claimed."""
        return self._records.is_unanswered

    def repeat(self) -> None:
        """Send again what had no reply. Before anything else is written: that would hide it."""
        now = now_us()
        for run in self._records.forgo(lambda run: self._is_too_late(run, now)):
            logger.warning(
                "It is not known whether a run of entry %r was published, and it is %.1f s late, "
                "which is more than the entry allows: if it was not, it is missed",
                run.name,
                (now - run.claim.moment) / SECOND_US,
            )
        runs = self._records.unanswered
        pushes = self._records.is_unanswered_push
        if pushes and not self._way.choose(len(runs)):
            return
        if pushes and not self._way.is_transactional:
            # As after a failover: the queue of this server may be one that nobody reads.
            unknown = self._records.unanswered
            self._doubtful |= self._records.withdraw()
            for run in unknown:
                run.to(RunState.DROPPED)
            self._untold.update((run.name, run) for run in unknown)
            self._called.answer(unknown)
            return
        if pushes:
            self._records.count_again(self._outbox.count_again)
        try:
            self._records.repeat(self._may_repeat if pushes else self._tenure.still_leads)
        finally:
            self._sort(runs)
            self._outbox.notify([run for run in runs if run.state is RunState.DONE and run.push])
            self._called.answer(runs)

    def doubt(self, names: Iterable[str]) -> None:
        """Let entries be read again, of which it is not known where they stand."""
        self._doubtful.update(names)

    def doubtful(self) -> frozenset[str]:
        """Return entries that stand elsewhere in the ledger than was thought: it has to be read."""
        return frozenset(self._doubtful)

    def flush(self) -> None:
        """Write the commits that are left, if there are any."""
        self._records.flush()

    def include(self, names: Iterable[str]) -> None:
        """Add entries that are new, changed or were read again, and drop those that are gone."""
        for name in names:
            entry = self._schedule.entries.get(name)
            self._doubtful.discard(name)
            self._timetable.remove(name)
            self._tell_found(name, entry)
            if entry is None:
                self._unsettled.discard(name)
                self._builder.forget(name)
                self._outbox.forget(name)
            elif entry.claim is not None:
                self._unsettled.add(entry.claim)
            else:
                self._unsettled.discard(name)
                self._timetable.schedule(entry)

    def work(self) -> float:
        """Do all that is due; return the seconds until something is, or may be tried again.

        Raises:
            ClockOffError: This machine's clock is off.
        """
        # Not for ever: beat's health check counts ticks, and changes of the schedule wait too.
        until = time.monotonic() + _LONGEST_WORK
        while self._tenure.may_begin() and self._round() and time.monotonic() < until:
            self._watch.check()
        # A step more would hide from a restoration what the unanswered did.
        if self._records.check_in() <= 0 and not self.is_unanswered:
            self._records.check()
        self._watch.check()
        return self._pause()

    def finish(self) -> None:
        """Leave as little as possible for the next leader to settle."""
        # A step more would hide from a restoration what the unanswered did.
        if not self._records.is_unanswered:
            self._records.check()

    def _pause(self) -> float:
        pause = self._next_in()
        return min(pause, _LOOK_AT_CALLS) if self._calls.any_hang else pause

    def _next_in(self) -> float:
        if self._doubtful:
            return 0.0
        broker = self._unsettled.broker_pause()
        if broker > 0:
            return broker
        if self.is_unanswered:
            return 0.0
        now, pause = now_us(), _NOTHING_DUE
        next_us = self._timetable.next_us()
        if next_us is not None:
            pause = (next_us - now) / SECOND_US
        waiting_us = self._waiting.next_us()
        if waiting_us is not None:
            pause = min(pause, (waiting_us - now) / SECOND_US - self._lead_in())
        again = self._unsettled.next_in()
        pause = min(pause, self._records.check_in())
        return max(0.0, pause if again is None else min(pause, again))

    def _round(self) -> bool:
        """Do one batch; return whether there may be another."""
        error, self._failed_meanwhile = self._failed_meanwhile, None
        if error is not None:
            raise error
        if self._calls.any_hang:
            self._look_at_calls()
        if self._doubtful or self.is_unanswered or self._unsettled.broker_pause() > 0:
            return False
        unsettled = self._unsettled.ready(BATCH)
        if unsettled:
            self._settle(unsettled)
            return True
        first = self._waiting.next_us()
        if first is not None and first <= now_us():
            # Before the next are built: that takes its time.
            return self._publish_waiting()
        is_any, runs = self._build_due()
        self._prepare(runs)
        return self._publish_waiting() or is_any

    # From the timetable

    def _build_due(self) -> tuple[bool, list[Run]]:
        """Build the messages of runs that are due, or soon will be.

        Returns:
            Whether any was due, and the runs. They wait for their moment.
        """
        now = now_us()
        most = _LATE_TOGETHER if self._timetable.has_before(now) else _MOST_TOGETHER
        due = self._timetable.pop_due(now, most)
        runs = []
        for moment, name in due:
            run = self._due_run(self._schedule.entries[name], moment)
            if run is not None:
                self._outbox.build_early(run)
                if not run.in_call:
                    runs.append(run)
        self._waiting.add(runs)
        return bool(due), runs

    def _build_meanwhile(self) -> None:
        """Build what is due next while Redis publishes what came before."""
        first = self._waiting.next_us()
        if self._calls.any_hang or (first is not None and first <= now_us()):
            return
        try:
            if self._way.is_current():  # a look at a new connection would need Redis
                _, runs = self._build_due()
                self._transactional.prepare([run for run in runs if run.state is RunState.BUILT])
        except Exception as exc:
            self._failed_meanwhile = exc  # not the fault of what is being published

    def _prepare(self, runs: Sequence[Run]) -> None:
        built = [run for run in runs if run.state is RunState.BUILT]
        if built and self._way.choose(len(self._waiting)) and self._way.is_transactional:
            self._transactional.prepare(built)

    def _due_run(self, entry: Entry, moment: int) -> Run | None:
        """Return the run of an entry that is due at a moment, if there is one."""
        if self._must_wait(entry):
            self._held.add(entry.name)
            return None
        try:
            if entry.rule.exact:
                due = entry.due_runs(moment)
            else:
                ask = partial(entry.due_runs, moment)
                due = self._calls.run(entry.name, "its schedule", ask)
        except CallHangsError as exc:
            self._keep_entry(entry.name, exc.call, partial(self._due_late, entry))
            return None
        except Exception as exc:
            self._timetable.failed(entry, exc)
            return None
        return self._run_of(entry, due)

    def _run_of(self, entry: Entry, due: DueRuns) -> Run | None:
        if not due.runs:
            self._tell_missed(entry, due.base_us, 0, due.dropped)
            self._timetable.put(entry, due.next_due)
            return None
        run = Run.of(entry, entry.claim_for(self._key, due, self._tenure.token))
        run.coalesced, run.dropped = due.coalesced, due.dropped
        if run.after is not None and run.claim.moment <= run.after.moment:
            detail = "returned a moment that is not later than its last run"
            self._timetable.failed(entry, ScheduleError(entry.rule.name, detail))
            return None
        return run

    def _tell_missed(self, entry: Entry, base_us: int, coalesced: int, dropped: int) -> None:
        coalesced, dropped = entry.new_missed(base_us, coalesced, dropped)
        if coalesced or dropped:
            logger.info(
                "Entry %r: %d missed runs coalesce into one, %d are too late to run",
                entry.name,
                coalesced,
                dropped,
            )
        if dropped:
            self._outbox.tally.missed += dropped
            self._events.missed(entry.name, self._tenure.token, dropped, "too-late")

    def _tell_found(self, name: str, entry: Entry | None) -> None:
        """Tell what belongs to a run of which the ledger had to say whether it holds it."""
        run = self._untold.pop(name, None)
        if run is None or entry is None:
            return
        if entry.last_run == run.record:
            self._tell_recorded(run)
        elif entry.claim == run.claim:
            self._tell_missed_before(run)

    def _tell_recorded(self, run: Run) -> None:
        """Tell what was missed with a run and before it, now that the run is recorded."""
        self._tell_missed_before(run)
        self._outbox.tell_given_up(run)
        if run.is_forgone:
            self._outbox.tally.missed += 1
            self._events.missed(run.name, self._tenure.token, 1, "unknown")
            run.is_forgone = False

    def _tell_missed_before(self, run: Run) -> None:
        """Tell what was missed before a run, once it is known that the run is to be recorded.

        That is when it is claimed, at the latest: whoever settles the claim knows no more of it.
        A run that is held back, as by a pause, is computed anew with each look.
        """
        if run.coalesced or run.dropped:
            base_us = 0 if run.after is None else run.after.base
            self._tell_missed(run.entry, base_us, run.coalesced, run.dropped)
            run.coalesced = run.dropped = 0

    # Calls of user code that do not return

    def _must_wait(self, entry: Entry) -> bool:
        """Tell whether nothing can be done for an entry before some call of user code returns."""
        calls, name = self._calls, entry.name
        if not calls.any_hang:
            return False
        if calls.hangs(name):
            return True
        return calls.is_full and (
            calls.was_refused(name)
            or not entry.rule.exact
            or self._builder.making(entry.source) is not Making.EARLY
        )

    def _keep(self, run: Run, call: UserCall | None, then: Callable[[UserCall], None]) -> None:
        """Keep a run of which a call has not returned, or was not even started."""
        run.in_call = True

        def go_on(call: UserCall) -> None:
            run.in_call = False
            try:
                then(call)
            finally:
                self._sort([run])

        self._keep_entry(run.name, call, go_on)

    def _keep_entry(
        self,
        name: str,
        call: UserCall | None,
        then: Callable[[UserCall], None],
        serve: Callable[[CallQuestion], None] | None = None,
    ) -> None:
        if call is None:
            self._held.add(name)
        else:
            self._in_calls[name] = _InCall(call, then, serve)

    def _look_at_calls(self) -> None:
        """Go on with what has returned or asks something, and say what has not."""
        if not (self._doubtful or self.is_unanswered or self._unsettled.broker_pause() > 0):
            self._serve_calls()
        for call in self._calls.returned():
            kept = self._in_calls.get(call.name)
            # What was called for an earlier tenure, or before the entry changed, is thrown away.
            if kept is not None and kept.call is call:
                del self._in_calls[call.name]
                kept.then(call)
        if not self._calls.is_full:
            self._let_go()
        since = self._calls.hanging_since(self._began)
        if since:
            self._patience.call_hangs(time.monotonic(), min(since))
        elif self._calls.any_hang and self._held:
            # Of an earlier tenure, and an entry waits for it: it has hung for all of this one.
            self._patience.call_hangs(time.monotonic(), self._began)

    def _serve_calls(self) -> None:
        for call, question in self._calls.questions():
            kept = self._in_calls.get(call.name)
            if kept is not None and kept.call is call and kept.serve is not None:
                kept.serve(question)
                self._called.check()
            else:
                detail = "its tenure is over, or its entry has changed"
                question.answer(NotPublishedError(call.name, detail))

    def _let_go(self) -> None:
        """Look again at the entries that waited for a call, theirs or any."""
        free = {name for name in self._held if not self._calls.hangs(name)}
        self._held -= free
        for name in free:
            entry = self._schedule.entries.get(name)
            if entry is None or name in self._in_calls:
                continue
            if entry.claim is not None:
                self._unsettled.add(entry.claim)
            else:
                self._timetable.schedule(entry)

    def _due_late(self, entry: Entry, call: UserCall) -> None:
        try:
            due: DueRuns = call.result()
        except Exception as exc:
            self._timetable.failed(entry, exc)
            return
        run = self._run_of(entry, due)
        if run is not None:
            self._outbox.build_early(run)
            if not run.in_call:
                self._waiting.add([run])
                self._prepare([run])

    # At their moment

    def _lead_in(self) -> float:
        return min(_LONGEST_LEAD_IN, _LEAD_IN + _LEAD_IN_EACH * len(self._waiting))

    def _publish_waiting(self) -> bool:
        """Publish the runs whose moment has come, or is so near that it is waited for."""
        first, now = self._waiting.next_us(), now_us()
        if first is None or first > now + self._lead_in() * SECOND_US:
            return False
        if first > now and self._timetable.has_before(first):
            return True  # there is time to build the rest of them
        runs = self._waiting.pop_due(max(first, now), _MOST_TOGETHER)
        late = {run for run in runs if self._is_too_late(run, now)}
        for run in late:
            if run.state is RunState.UNSETTLED:
                self._miss(run)
            else:
                self._drop(run)
        self._publish([run for run in runs if run not in late], first)
        return True

    def _is_too_late(self, run: Run, now: int) -> bool:
        """Tell whether a run is by now too late to the missed-run policy."""
        return now - run.claim.moment > run.entry.lateness_us

    def _publish(self, runs: Sequence[Run], moment: int) -> None:
        """Publish runs, not before the moment, in the way that fits each."""
        called = dict.fromkeys(run for run in runs if self._is_called(run))
        built = [run for run in runs if run not in called] if called else runs
        try:
            inherited = [run for run in built if run.state is RunState.UNSETTLED]
            if inherited and self._may_write(moment):
                self._publish_inherited(inherited)
            self._publish_own([run for run in built if run.state in _OWN], moment)
        except BaseException:
            self._sort(called)
            raise
        finally:
            # Whatever was raised: no run may get lost.
            self._sort(built)
        if called:
            self._call(list(called), moment)

    def _is_called(self, run: Run) -> bool:
        """Tell whether Celery's own code makes the message of a run, and has not made it yet."""
        if run.state not in (RunState.SCHEDULED, RunState.UNSETTLED):
            return False
        return self._builder.making(run.entry.source).is_called

    def _call(self, runs: Sequence[Run], moment: int) -> None:
        """Let Celery's own code send runs, as many as there is time for."""
        if not self._may_write(moment):
            self._sort(runs)
            return
        for run in runs:
            if run.state is RunState.UNSETTLED:
                run.to(RunState.CLAIMED)
        until = time.monotonic() + _LONGEST_WORK

        def may_publish() -> bool:
            # Not for one more run at the end: its code would be told that it was not published.
            is_time = self._tenure.may_begin() and time.monotonic() < until
            return is_time and self._unsettled.broker_pause() <= 0

        self._called.publish(runs, may_publish)

    def _publish_called(self, run: Run) -> Steps[None]:
        """Publish one run whose messages Celery's code has made, or that was given up."""
        if run.state is RunState.CLAIMED:
            self._write_ahead.send([run])
            return
        if not self._way.choose(1):
            return
        if self._is_for_one_script(run):
            try:
                yield from self._transactional.publishing([run], partial(self._may_write, 0))
            except SafeLeaderError:
                raise
            except Exception as exc:
                self._set_aside_for(run, exc)
        if run.state in _READY and not self._is_for_one_script(run):
            self._publish_ready([run], 0)

    def _is_late_now(self, run: Run) -> bool:
        return self._is_too_late(run, now_us())

    def _publish_own(self, runs: Sequence[Run], moment: int) -> None:
        ready = [run for run in runs if run.state is not RunState.SCHEDULED]
        if ready:
            self._publish_ready(ready, moment)
        rest = [run for run in runs if run.state is RunState.SCHEDULED]
        if rest and self._may_write(moment) and self._unsettled.broker_pause() <= 0:
            for run in rest:
                self._outbox.build(run)
            self._publish_ready([run for run in rest if not run.in_call], moment)

    def _publish_ready(self, runs: Sequence[Run], moment: int) -> None:
        if not self._way.choose(len(runs)):
            return
        may_write = partial(self._may_write, moment)
        if self._way.is_transactional:
            plain = [run for run in runs if run.is_plain]
            self._isolated(lambda some: self._transactional.publish(some, may_write), plain)
        rest = [run for run in runs if run.state in _READY and not self._is_for_one_script(run)]
        if rest and self._unsettled.broker_pause() <= 0:
            self._isolated(lambda some: self._write_ahead.publish(some, may_write), rest)

    def _isolated(self, publish: Callable[[Sequence[Run]], None], runs: Sequence[Run]) -> None:
        """Publish runs; one that fails in a way that nobody foresaw costs its entry alone."""
        for run, error in publish_isolated(publish, runs):
            self._set_aside_for(run, error)

    def _set_aside_for(self, run: Run, error: Exception) -> None:
        if run.state not in _READY:
            return
        run.to(RunState.HELD_BACK)
        self._set_aside.add(run.name)
        self._patience.failed(time.monotonic(), Cause.PROCESS)
        logger.error(
            "Publishing a run of entry %r failed unexpectedly: %s. It is tried again in 60 s; "
            "other entries are not held up. Please report this",
            run.name,
            safe_repr(error),
            exc_info=error,
        )

    def _is_for_one_script(self, run: Run) -> bool:
        return self._way.is_transactional and run.is_plain

    def _publish_inherited(self, runs: Sequence[Run]) -> None:
        """Publish runs that an earlier leader claimed, and that nobody has a message of."""
        for run in runs:
            run.to(RunState.CLAIMED)
            self._outbox.build(run)
        self._write_ahead.send(
            [run for run in runs if run.state is RunState.CLAIMED and not run.in_call]
        )

    def _may_repeat(self) -> bool:
        return self._tenure.still_leads() and self._way.is_current()

    def _settle(self, claims: list[Claim]) -> None:
        """Find out what became of unsettled claims, and publish those that nobody has."""
        runs = []
        claims = [claim for claim in claims if not self._hold(claim)]
        for settlement in self._records.settle(claims) if claims else []:
            entry = self._schedule.entries.get(settlement.claim.entry)
            if entry is None:
                self._unsettled.discard(settlement.claim.entry)
                continue
            run = Run.of(entry, settlement.claim, RunState.UNSETTLED)
            if settlement.outcome is SettlementOutcome.ACCEPTED:
                self._complete(run)
            elif self._is_too_late(run, now_us()):
                self._miss(run)
            elif run.claim.moment > now_us():
                # Another leader claimed it, and left it before its moment came.
                self._unsettled.discard(run.name)
                self._waiting.add([run])
            else:
                runs.append(run)
        if runs and (paused := self._records.pause()):
            self._unsettled.postpone(run.name for run in runs)
            raise paused[0]
        self._unsettled.end_postponement()
        self._publish(runs, 0)

    def _hold(self, claim: Claim) -> bool:
        """Let a claim wait if its entry has to wait for a call; return whether it does."""
        entry = self._schedule.entries.get(claim.entry)
        if entry is None or not self._must_wait(entry):
            return False
        self._unsettled.discard(claim.entry)
        self._held.add(claim.entry)
        return True

    def _may_write(self, moment: int) -> bool:
        """Wait for a moment that is near; return whether it has come, and the tenure goes on."""
        until = time.monotonic() + 2 * _LONGEST_LEAD_IN
        while (left := moment - now_us()) > 0:
            # A clock that was set back makes it far away.
            if not self._tenure.may_begin() or time.monotonic() > until:
                return False
            rest = min(left / SECOND_US - _AWAKE, _LOOK_EVERY)
            if rest > 0:
                time.sleep(rest)  # of 0 s it would take up to 0.07 ms
        return self._tenure.may_begin()

    # Where runs go afterwards

    def _sort(self, runs: Iterable[Run]) -> None:
        """Put each run, or its entry, where its state says."""
        for run in runs:
            match run.state:
                case _ if run.in_call:
                    pass  # kept until the call returns
                case RunState.DONE:
                    self._tell_recorded(run)
                    run.entry.set_last_run(run.record)
                    self._timetable.schedule(run.entry)
                case RunState.SENT:
                    self._complete(run)
                case RunState.CLAIMED | RunState.OWED:
                    self._tell_missed_before(run)
                    self._unsettled.add(run.claim)
                case RunState.UNSETTLED if run.entry.claim == run.claim:
                    self._tell_missed_before(run)
                    self._unsettled.add(run.claim)
                case RunState.UNSETTLED:
                    self._doubt(run)
                case RunState.HELD_BACK if run.name in self._set_aside:
                    self._set_aside.discard(run.name)
                    self._timetable.put_off(run.entry, now_us() + MINUTE_US)
                case RunState.HELD_BACK:
                    self._timetable.put_off(run.entry, now_us() + (run.again_us or _HELD_BACK_US))
                case RunState.DROPPED:
                    self._doubt(run)
                case RunState.GIVEN_UP if run.entry.claim == run.claim:
                    self._complete(run)
                case RunState.BUILT if run.question is not None:
                    # The call is told that it is not sent: so it must not be, but by another call.
                    self._timetable.put_off(run.entry, now_us() + _CALL_AGAIN_US)
                case RunState.SCHEDULED | RunState.BUILT | RunState.GIVEN_UP:
                    run.push = None  # the time to live in it is that of another attempt
                    self._waiting.add([run])
                case _:
                    pass  # unanswered: kept by whoever asked

    def _doubt(self, run: Run) -> None:
        """Let the ledger say where the entry of a run stands, and whether it holds that run."""
        self._doubtful.add(run.name)
        self._untold[run.name] = run

    def _drop(self, run: Run) -> None:
        run.to(RunState.DROPPED)
        self._timetable.schedule(run.entry)

    def _miss(self, run: Run) -> None:
        """Let a run be recorded that was claimed in time, and is by now too late to publish."""
        logger.warning(
            "A run of entry %r was claimed and is not known to be published: it is %.1f s late, "
            "which is more than the entry allows, so it is missed",
            run.name,
            (now_us() - run.claim.moment) / SECOND_US,
        )
        self._outbox.tally.missed += 1
        self._events.missed(run.name, self._tenure.token, 1, "too-late")
        self._complete(run)

    def _complete(self, run: Run) -> None:
        """Let a claimed run be committed, and schedule the next one."""
        self._tell_recorded(run)
        self._unsettled.discard(run.name)
        self._records.commit(run)
        self._timetable.schedule(run.entry)


@dataclass(frozen=True, slots=True)
class _InCall:
    """What waits for a call of user code."""

    call: UserCall
    then: Callable[[UserCall], None]
    serve: Callable[[CallQuestion], None] | None = None
    """What is done with what it asks."""


_READY = (RunState.BUILT, RunState.GIVEN_UP)
_OWN = (RunState.SCHEDULED, *_READY)
