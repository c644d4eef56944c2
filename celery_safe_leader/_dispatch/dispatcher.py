"""A leader's work, one tenure after the other: load the ledger, then do the rounds.

What the ledger answers decides what happens next. Its errors are handled here, except for a clock
that is ahead, with which this beat must not lead.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Collection
from typing import Any

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.health.patience import Cause, Patience
from celery_safe_leader._dispatch.health.user_calls import UserCalls
from celery_safe_leader._dispatch.memory.memory import INCOMPLETE, Memory
from celery_safe_leader._dispatch.memory.owed_runs import NextMoments
from celery_safe_leader._dispatch.memory.standby_copy import StandbyCopy
from celery_safe_leader._dispatch.memory.upkeep import Upkeep
from celery_safe_leader._dispatch.ports import MessageBuilder, MessagePublisher, Schedule
from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._dispatch.tenure import Gate, Tenure
from celery_safe_leader._ledger.errors import (
    FencedError,
    FenceReason,
    GenerationChangedError,
    LedgerError,
    LedgerFormatError,
    LedgerPausedError,
    LedgerReplacedError,
)
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import SECOND_US, now_us
from celery_safe_leader.errors import SafeLeaderError, StoreError, StoreRefusedError

__all__ = ["Dispatcher"]

_SHORTEST_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 5.0
_REFUSED_PAUSE = 1.0
_COMPLAIN_EVERY = 60.0
_COPY_AGAIN = 20.0
"""All in seconds."""
_PAUSED = (
    "%s. Nothing is published until `leader resume`, or the end of the pause. What falls due "
    "meanwhile is missed, by policy"
)
_IDLE = 0.01
"""Seconds until something is due, from which on there is time to note what comes next."""
_MUST_CLAIM = "the ledger was found incomplete"


class Dispatcher:
    """Works for one beat. One thread at a time; ``close`` from any thread.

    The constructor does no IO.

    Args:
        ledger: Of the key; on a client that the election does not use.
        schedule: The entries.
        builder: Makes their messages.
        publisher: Gets messages to the broker.
        patience: Is told how it goes. It outlives this dispatcher.
        calls: Makes calls of user code. It outlives this dispatcher, too.
        watch: Compares this machine's clock with others. So does it.
        events: Is told what becomes of runs. So does it.
    """

    def __init__(
        self,
        ledger: Ledger,
        schedule: Schedule,
        builder: MessageBuilder,
        publisher: MessagePublisher,
        patience: Patience,
        calls: UserCalls,
        watch: ClockWatch,
        events: RunEvents | None = None,
    ) -> None:
        self._events = events or RunEvents()
        self._key = ledger.key
        self._schedule = schedule
        self._ledger = ledger
        self._next_moments = NextMoments(ledger, schedule)
        self._memory = Memory(ledger, schedule, watch, self._next_moments.look_after)
        self._copy = StandbyCopy(ledger, schedule, self._memory)
        self._publisher = publisher
        self._builder = builder
        self._patience = patience
        self._calls = calls
        self._watch = watch
        self._tenure: Tenure | None = None
        self._rounds: Rounds | None = None
        self._upkeep: Upkeep | None = None
        self._latest_rounds: Rounds | None = None
        self._changed: set[str] = set()
        self._lost = False
        self._failures = 0
        self._refusal = ""
        self._silent_until = 0.0
        self._collector_rests = False

    def run(self, tenure: Tenure) -> float:
        """Do all that is due now.

        Args:
            tenure: Under which this process leads. The ledger is loaded when a new one begins. Its
                gate is asked before each batch and right before each write to the broker.

        Returns:
            Seconds until something is due, or until a failed step may be tried again.

        Raises:
            ClockAheadError: This machine's clock is too far ahead to lead.
            ClockOffError: It is off by too much to lead, either way.
        """
        try:
            pause = self._run(tenure)
        except FencedError as exc:
            return self._fenced(exc)
        except GenerationChangedError as exc:
            logger.warning("%s; this leader restores it", exc)
            self._lost = True
            self._patience.failed(time.monotonic(), Cause.LEDGER)
            return 0.0
        except LedgerReplacedError as exc:
            logger.warning("%s: it is loaded again", exc)
            self._rounds = None
            return 0.0
        except LedgerPausedError as exc:
            self._complain(_PAUSED, exc)
            return _REFUSED_PAUSE
        except LedgerError as exc:
            self._rounds = None
            if isinstance(exc, LedgerFormatError):
                # Of a newer release that has led: a beat of that release reads it.
                self._patience.failed(time.monotonic(), Cause.LEDGER)
            self._complain("%s. This beat leads but dispatches nothing until this ends", exc)
            return _REFUSED_PAUSE
        except StoreError as exc:
            self._failures += 1
            self._patience.failed(time.monotonic(), Cause.LEDGER)
            self._complain("The ledger failed: %s. Due runs wait in it; trying again", exc)
            return backoff(self._failures, first=_SHORTEST_BACK_OFF, longest=_LONGEST_BACK_OFF)
        self._failures = 0
        return pause

    def stand_by(self, still_stands_by: Gate) -> float:
        """Keep a copy of the ledger, so that an election costs less: do the next step of it.

        Args:
            still_stands_by: Whether this process is a standby. Asked before each request.

        Returns:
            Seconds until the next step.
        """
        # Over for good: the copy takes the place of what was known.
        self._rounds = self._upkeep = self._tenure = None
        try:
            return self._copy.step(still_stands_by)
        except StoreError as exc:
            # Nothing is lost: an election reads what was not copied.
            if isinstance(exc, StoreRefusedError) and str(exc) != self._refusal:
                self._refusal = str(exc)
                logger.warning(
                    "This standby cannot copy the ledger of %s (%s): if it is elected, it reads "
                    "all entries first",
                    self._key,
                    exc,
                )
            return _COPY_AGAIN

    def finish(self) -> None:
        """Leave the ledger whole before leadership is handed over: the memory ends with us."""
        if self._rounds is None or self._tenure is None:
            return
        try:
            if not self._lost and self._is_as_left(self._rounds):
                return
            self._write_back(self._rounds, self._tenure)
        except SafeLeaderError as exc:
            logger.warning("%s. The next leader settles the remaining runs", exc)

    def _is_as_left(self, rounds: Rounds) -> bool:
        try:
            rounds.finish()
        except GenerationChangedError:
            return False
        return True

    def abandon(self) -> None:
        """Leave a ``run`` that may never return; from another thread."""
        self._wake_collector()

    def start_over(self) -> None:
        """Forget what is known of the ledger: the next run loads it again."""
        self._rounds = None

    def summary(self, most: int) -> dict[str, Any]:
        """Return what this tenure did and what comes next, for people, in JSON's types.

        From any thread. Empty without a tenure, and while its ledger is not loaded.

        Args:
            most: How many moments to come are named.
        """
        rounds = self._rounds
        return {} if rounds is None else rounds.summary(most)

    @property
    def unsettled(self) -> int | None:
        """Runs that were claimed and have to be settled; ``None`` without a loaded ledger."""
        rounds = self._rounds
        return None if rounds is None else rounds.unsettled

    @property
    def overdue(self) -> float | None:
        """Seconds that the most overdue run is late; ``None`` without a loaded ledger."""
        rounds = self._rounds
        return None if rounds is None else rounds.overdue

    @property
    def is_paused(self) -> bool | None:
        """Whether the ledger was paused when it last answered; ``None`` without a loaded one."""
        return None if self._rounds is None else self._ledger.pause is not None

    def close(self) -> None:
        """Close the connection to the broker."""
        self._publisher.close()

    def _run(self, tenure: Tenure) -> float:
        if self._watch.has_jumped(now_us() / SECOND_US, time.monotonic()) and self._rounds:
            # Runs that it moved into the future are brought back.
            logger.warning("This machine's wall clock was set: the ledger is loaded again")
            self._rounds = None
        rounds = self._rounds
        if rounds is None or tenure != self._tenure:
            rounds = self._begin(tenure)
        if self._lost:
            self._restore(rounds, tenure)
        if rounds.is_unanswered:
            # First of all, since any other write would hide what the unanswered did. And what they
            # did has to be known before an entry changes.
            rounds.repeat()
        if not rounds.is_unanswered:
            self._apply_changes(rounds)
        pause = self._work(rounds)
        self._mind_pause(rounds)
        # A step more would hide from a restoration what the unanswered did.
        if self._upkeep is None or rounds.is_unanswered:
            return pause
        pause = min(pause, self._upkeep.step(time.monotonic()))
        if pause < _IDLE:
            return pause
        return min(pause, self._next_moments.step(time.monotonic()))

    def _mind_pause(self, rounds: Rounds) -> None:
        """Tell of a pause, or end it when it has run out, also while nothing is due."""
        pause, now = self._ledger.pause, now_us()
        if pause is None or rounds.is_unanswered:
            return
        if pause.until_us and now >= pause.until_us:
            rounds.finish()  # any write ends it, so that an older release may lead again
        else:
            error = LedgerPausedError(self._key, pause.number, pause.until_us, now)
            self._complain(_PAUSED, error)

    def _work(self, rounds: Rounds) -> float:
        """Do a second's rounds while Python's garbage collector rests.

        A burst makes some dozens of objects for each message, and drops them right after. The
        collector would look through them, and through all entries, again and again, and find
        nothing: a tenth of the time with 10,000 entries, and more with more.
        """
        self._collector_rests = gc.isenabled()
        if self._collector_rests:
            gc.disable()
        try:
            return rounds.work()
        finally:
            self._wake_collector()

    def _wake_collector(self) -> None:
        if self._collector_rests:
            self._collector_rests = False
            gc.enable()

    def _apply_changes(self, rounds: Rounds) -> None:
        """Follow what is new in the schedule, after what was built of it is dropped."""
        self._take_over(rounds)
        self._read_again(rounds)
        if not self._changed:
            return
        try:
            rounds.flush()
            differing = self._memory.enrol(self._changed)
        except StoreError:
            # It is not known what was written. Not all is loaded anew: this memory may be the only
            # one, if Redis comes back without the ledger.
            rounds.doubt(self._changed)
            raise
        rounds.include(self._changed)
        rounds.doubt(differing)
        self._changed.clear()

    def _take_over(self, rounds: Rounds) -> None:
        """Let entries that are new or changed continue where they stood in memory."""
        changes = self._schedule.changes()
        rounds.withdraw(changes)
        for name, before in changes.items():
            self._memory.replace(name, before)
        self._changed |= changes.keys()

    def _read_again(self, rounds: Rounds) -> None:
        """Learn where entries stand of which the ledger holds something else than was thought."""
        doubtful = rounds.doubtful()
        if doubtful:
            rounds.flush()
            differing = self._memory.reread(doubtful)
            rounds.include(doubtful)
            rounds.doubt(differing)

    def _begin(self, tenure: Tenure) -> Rounds:
        started = time.monotonic()
        self._rounds, self._lost, self._silent_until = None, False, 0.0
        self._changed.clear()
        adoption, redis_us = self._memory.adopt(tenure)
        why_all = self._copy.why_useless(adoption, redis_us)
        if not why_all and self._watch.in_future(now_us()) is not None:
            why_all = (
                "by this machine's clock, entries may lie in the future that do not by Redis's"
            )
        read = self._load_all() if why_all else self._load_some()
        rounds = Rounds(
            tenure,
            self._ledger,
            self._schedule,
            self._builder,
            self._publisher,
            self._patience,
            self._calls,
            self._watch,
            self._copy.hand_over(),
            must_claim=_MUST_CLAIM if adoption.condition in INCOMPLETE else "",
            events=self._events,
        )
        if self._latest_rounds is not None:
            self._latest_rounds.end()
        rounds.include(read)
        self._tenure, self._rounds = tenure, rounds
        self._latest_rounds = rounds
        self._next_moments.begin(time.monotonic())
        self._upkeep = Upkeep(self._ledger, self._schedule, self._memory, time.monotonic())
        self._events.counts.loads.observe(time.monotonic() - started)
        logger.info(
            "Loaded the ledger of %s in %.0f ms: %d entries, %s, %d runs to settle",
            self._key,
            1000 * (time.monotonic() - started),
            len(self._schedule.entries),
            f"all read ({why_all})" if why_all else f"warm ({len(read)} of them read)",
            rounds.unsettled,
        )
        return rounds

    def _load_all(self) -> Collection[str]:
        self._copy.drop()
        self._schedule.changes()
        self._memory.load()
        return self._schedule.entries

    def _load_some(self) -> Collection[str]:
        # Whoever led may have run what falls due soon, by another clock: it has to be known, in
        # case the ledger is lost before it is due by this one.
        until_us = now_us() + round(self._ledger.clocks_apart * SECOND_US)
        return self._memory.load_some(self._copy.to_read(until_us))

    def _restore(self, rounds: Rounds, tenure: Tenure) -> None:
        self._write_back(rounds, tenure)
        # With its data Redis may have lost what kombu believes declared: the bindings of a queue.
        self._publisher.forget_declarations()
        self._next_moments.forget()
        rounds.restart()

    def _write_back(self, rounds: Rounds, tenure: Tenure) -> None:
        def take_in() -> None:
            # In this order: what had no reply is of entries that may have changed since.
            rounds.resolve_unanswered()
            self._take_over(rounds)

        self._memory.restore(tenure, take_in)
        self._lost = False

    def _fenced(self, error: FencedError) -> float:
        if error.reason == FenceReason.VACANT.name:
            return 0.05  # the next renewal brings the record back, or demotes us
        logger.warning("%s. Nothing more is dispatched under this token", error)
        self._rounds = None
        return 0.1

    def _complain(self, message: str, error: Exception) -> None:
        """Log an error, at most once a minute while the ledger stays loaded."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _COMPLAIN_EVERY
            logger.error(message, error)
