"""A leader's work, one tenure after the other: load the ledger, then do the rounds.

What the ledger answers decides what happens next; every error has its way on here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from celery_safe_leader._dispatch.memory import Memory
from celery_safe_leader._dispatch.ports import Gate, MessageBuilder, MessagePublisher, Schedule
from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._ledger.errors import (
    ClockAheadError,
    FencedError,
    FenceReason,
    GenerationChangedError,
    LedgerError,
)
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader.errors import SafeLeaderError, StoreError

__all__ = ["ClockAheadError", "Dispatcher"]

logger = logging.getLogger("celery_safe_leader.beat")

_LONGEST_BACK_OFF = 5.0
_REFUSED_PAUSE = 1.0
_COMPLAIN_EVERY = 60.0
"""All in seconds."""


class Dispatcher:
    """Works for one beat. One thread at a time; ``close`` from any thread."""

    def __init__(
        self,
        ledger: Ledger,
        schedule: Schedule,
        builder: MessageBuilder,
        make_publisher: Callable[[Gate], MessagePublisher],
    ) -> None:
        """Make an idle dispatcher. Does no IO.

        Args:
            ledger: Of the key; on a client that the election does not use.
            schedule: The entries.
            builder: Makes their messages.
            make_publisher: Makes what gets messages to the broker. It is given the gate to ask
                immediately before each write.
        """
        self._key = ledger.key
        self._schedule = schedule
        self._ledger = ledger
        self._books = Memory(ledger, schedule)
        self._may_go_on: Gate = lambda: False
        self._publisher = make_publisher(lambda: self._may_go_on())
        self._builder = builder
        self._holder = ""
        self._token = 0
        self._rounds: Rounds | None = None
        self._changed: set[str] = set()
        self._lost = False
        self._failures = 0
        self._silent_until = 0.0

    def run(self, holder: str, token: int, may_go_on: Gate) -> float:
        """Do all that is due now.

        Args:
            holder: Candidate id of this leader.
            token: Fencing token of its tenure; a new one begins with the ledger's loading.
            may_go_on: Asked before each batch and right before each write to the broker.

        Returns:
            Seconds until something is due, or until a failed step may be tried again.

        Raises:
            ClockAheadError: This machine's clock is too far ahead to lead.
        """
        self._may_go_on = may_go_on
        try:
            pause = self._run(holder, token)
        except FencedError as exc:
            return self._fenced(exc)
        except GenerationChangedError as exc:
            logger.warning("%s; this leader writes it back", exc)
            self._lost = True
            return 0.0
        except LedgerError as exc:
            self._rounds = None
            self._complain("%s. This beat leads and dispatches nothing until that ends", exc)
            return _REFUSED_PAUSE
        except StoreError as exc:
            self._failures += 1
            self._complain("The ledger: %s. What is due waits in it; trying again", exc)
            return min(_LONGEST_BACK_OFF, 0.05 * 2.0 ** min(self._failures, 10))
        self._failures = 0
        return pause

    def finish(self) -> None:
        """Leave the ledger whole before leadership is handed over: the memory goes with us."""
        if self._rounds is None:
            return
        try:
            try:
                self._rounds.finish()
            except GenerationChangedError:
                self._books.restore(self._holder, self._token)
        except SafeLeaderError as exc:
            logger.warning("%s. The next leader settles what is left", exc)

    def start_over(self) -> None:
        """Forget what is known of the ledger: the next run loads it again."""
        self._rounds = None

    def close(self) -> None:
        """Close the connection to the broker."""
        self._publisher.close()

    def _run(self, holder: str, token: int) -> float:
        if self._rounds is None or token != self._token:
            rounds = self._begin(holder, token)
        else:
            rounds = self._rounds
        if self._lost:
            self._restore(rounds)
        self._change(rounds)
        return rounds.work(self._may_go_on)

    def _change(self, rounds: Rounds) -> None:
        """Take up what is new in the schedule, after what was claimed of it is taken back."""
        changes = self._schedule.changes()
        rounds.withdraw(changes)
        for name, before in changes.items():
            self._books.replace(name, before)
        self._changed |= changes.keys()
        if not self._changed:
            return
        try:
            rounds.flush()
            self._books.enrol(self._changed)
        except StoreError:
            self._rounds = None  # it is not known what was written: load it
            raise
        rounds.include(self._changed)
        self._changed.clear()

    def _begin(self, holder: str, token: int) -> Rounds:
        started = time.monotonic()
        self._rounds, self._lost, self._silent_until = None, False, 0.0
        self._schedule.changes()
        self._changed.clear()
        self._books.load(holder, token)
        rounds = Rounds(
            self._key, token, self._ledger, self._schedule, self._builder, self._publisher
        )
        rounds.restart()
        self._holder, self._token, self._rounds = holder, token, rounds
        logger.info(
            "Loaded the ledger of %s in %.0f ms: %d entries, %d runs to settle",
            self._key,
            1000 * (time.monotonic() - started),
            len(self._schedule.items),
            rounds.owed,
        )
        return rounds

    def _restore(self, rounds: Rounds) -> None:
        self._books.restore(self._holder, self._token)
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
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + _COMPLAIN_EVERY
            logger.error(message, error)
