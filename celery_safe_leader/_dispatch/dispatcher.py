"""A leader's work, one tenure after the other: load the ledger, then do the rounds.

What the ledger answers decides what happens next; every error is handled here.
"""

from __future__ import annotations

import logging
import time

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._dispatch.memory import Memory
from celery_safe_leader._dispatch.ports import MessageBuilder, MessagePublisher, Schedule
from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.errors import (
    FencedError,
    FenceReason,
    GenerationChangedError,
    LedgerError,
)
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader.errors import SafeLeaderError, StoreError

__all__ = ["Dispatcher"]

logger = logging.getLogger("celery_safe_leader.beat")

_SHORTEST_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 5.0
_REFUSED_PAUSE = 1.0
_COMPLAIN_EVERY = 60.0
"""All in seconds."""


class Dispatcher:
    """Works for one beat. One thread at a time; ``close`` from any thread.

    The constructor does no IO.

    Args:
        ledger: Of the key; on a client that the election does not use.
        schedule: The entries.
        builder: Makes their messages.
        publisher: Gets messages to the broker.
    """

    def __init__(
        self,
        ledger: Ledger,
        schedule: Schedule,
        builder: MessageBuilder,
        publisher: MessagePublisher,
    ) -> None:
        self._key = ledger.key
        self._schedule = schedule
        self._ledger = ledger
        self._memory = Memory(ledger, schedule)
        self._publisher = publisher
        self._builder = builder
        self._tenure: Tenure | None = None
        self._rounds: Rounds | None = None
        self._changed: set[str] = set()
        self._lost = False
        self._failures = 0
        self._silent_until = 0.0

    def run(self, tenure: Tenure) -> float:
        """Do all that is due now.

        Args:
            tenure: Under which this process leads. The ledger is loaded when a new one begins. Its
                gate is asked before each batch and right before each write to the broker.

        Returns:
            Seconds until something is due, or until a failed step may be tried again.

        Raises:
            ClockAheadError: This machine's clock is too far ahead to lead.
        """
        try:
            pause = self._run(tenure)
        except FencedError as exc:
            return self._fenced(exc)
        except GenerationChangedError as exc:
            logger.warning("%s; this leader restores it", exc)
            self._lost = True
            return 0.0
        except LedgerError as exc:
            self._rounds = None
            self._complain("%s. This beat leads but dispatches nothing until this ends", exc)
            return _REFUSED_PAUSE
        except StoreError as exc:
            self._failures += 1
            self._complain("The ledger failed: %s. Due runs wait in it; trying again", exc)
            return backoff(self._failures, first=_SHORTEST_BACK_OFF, longest=_LONGEST_BACK_OFF)
        self._failures = 0
        return pause

    def finish(self) -> None:
        """Leave the ledger whole before leadership is handed over: the memory ends with us."""
        if self._rounds is None or self._tenure is None:
            return
        try:
            try:
                self._rounds.finish()
            except GenerationChangedError:
                self._memory.restore(self._tenure)
        except SafeLeaderError as exc:
            logger.warning("%s. The next leader settles the remaining runs", exc)

    def start_over(self) -> None:
        """Forget what is known of the ledger: the next run loads it again."""
        self._rounds = None

    def close(self) -> None:
        """Close the connection to the broker."""
        self._publisher.close()

    def _run(self, tenure: Tenure) -> float:
        rounds = self._rounds
        if rounds is None or tenure != self._tenure:
            rounds = self._begin(tenure)
        if self._lost:
            self._restore(rounds, tenure)
        self._apply_changes(rounds)
        return rounds.work()

    def _apply_changes(self, rounds: Rounds) -> None:
        """Follow what is new in the schedule, after what was claimed of it is taken back."""
        changes = self._schedule.changes()
        rounds.withdraw(changes)
        for name, before in changes.items():
            self._memory.replace(name, before)
        self._changed |= changes.keys()
        if not self._changed:
            return
        try:
            rounds.flush()
            self._memory.enrol(self._changed)
        except StoreError:
            self._rounds = None  # it is not known what was written: load it
            raise
        rounds.include(self._changed)
        self._changed.clear()

    def _begin(self, tenure: Tenure) -> Rounds:
        started = time.monotonic()
        self._rounds, self._lost, self._silent_until = None, False, 0.0
        self._schedule.changes()
        self._changed.clear()
        self._memory.load(tenure)
        rounds = Rounds(tenure, self._ledger, self._schedule, self._builder, self._publisher)
        rounds.restart()
        self._tenure, self._rounds = tenure, rounds
        logger.info(
            "Loaded the ledger of %s in %.0f ms: %d entries, %d runs to settle",
            self._key,
            1000 * (time.monotonic() - started),
            len(self._schedule.entries),
            rounds.unsettled,
        )
        return rounds

    def _restore(self, rounds: Rounds, tenure: Tenure) -> None:
        self._memory.restore(tenure)
        # With its data Redis may have lost what kombu believes declared: the bindings of a queue.
        self._publisher.forget_declarations()
        self._lost = False
        rounds.restart()

    def _fenced(self, error: FencedError) -> float:
        if error.reason == FenceReason.VACANT.name:
            return 0.05  # the next renewal brings the record back, or demotes us
        logger.warning("%s. Nothing more is dispatched under this token", error)
        self._rounds = None
        return 0.1

    def _complain(self, message: str, error: Exception) -> None:
        """Log an error, at most once a minute."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _COMPLAIN_EVERY
            logger.error(message, error)
