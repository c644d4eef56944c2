"""Questions of a worker to the election's Redis, asked so that the worker's loop never hangs.

All that could block (names, connecting, logging in, waiting) is done by one thread. The loop waits
for the thread's answer, and not for long. Once it waited in vain it asks without waiting, until
Redis has answered swiftly again. What was not answered in time is entered later all the same: a
run that was let through is then known as such to whoever asks next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

import redis

from celery_safe_leader._beat.acceptance import Acceptance, accept
from celery_safe_leader.errors import StoreError

__all__ = ["LIMIT", "Inquirer"]

logger = logging.getLogger("celery_safe_leader.worker")

LIMIT = 0.08
"""Seconds that the loop waits for one answer."""
SWIFT = LIMIT / 2
"""Seconds within which Redis must answer to be waited for again."""
PAUSE = 1.0
"""Seconds between two attempts at a Redis in trouble."""
IDLE = 30.0
"""Seconds after which an idle connection is tried, so that a dead one is found before it counts."""
GREETING = 1.0
"""Seconds that the start of a worker waits for the first connection."""
BACKLOG = 1000
"""Unanswered inquiries that are kept, the newest."""

_TRIAL = "trial"


@dataclass(slots=True)
class _Inquiry:
    """One question, for one publication of one occurrence."""

    key: str
    occurrence: str
    publication: str
    abandoned: bool = False
    """Whether nobody waits: the message was let through."""
    answer: Acceptance | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Inquirer:
    """Asks whether a publication is the first of its occurrence.

    Use it from one process. ``ask`` may be called from any thread.
    """

    def __init__(self, client: redis.Redis, server: str, key: str, window: float) -> None:
        """Make an inquirer. Does no IO and starts nothing.

        Args:
            client: For the election's Redis; its time limits bound how late an end of trouble is
                noticed, and nothing else.
            server: The same server as people may read it.
            key: Under which it is tried whether Redis does what is needed.
            window: Seconds for which an accepted occurrence is remembered.
        """
        self.late = 0
        """Runs that were let through unasked and have been entered since."""
        self.doubled = 0
        """Those among them of which another publication had been accepted: they ran twice."""
        self._client = client
        self._server = server
        self._key = key
        self._window = window
        self._backlog: deque[_Inquiry] = deque(maxlen=BACKLOG)
        self._news = threading.Condition()
        self._closing = threading.Event()
        self._greeted = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble = False

    @property
    def answers(self) -> bool:
        """Whether Redis answered swiftly when it was last asked."""
        return not self._trouble

    def start(self) -> None:
        """Connect. Waits for it, briefly; started already, it does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="leader:accept", daemon=True)
            self._thread.start()
            if not self._greeted.wait(GREETING):
                self._give_up(f"{self._server} did not answer within {GREETING:g} s")

    def close(self) -> None:
        """Stop the thread and close the connection. What was not entered is forgotten."""
        self._closing.set()
        with self._news:
            self._news.notify()
        self._client.close()

    def ask(self, key: str, occurrence: str, publication: str) -> Acceptance | None:
        """Ask, and wait no longer than ``LIMIT``; while Redis is in trouble, not at all.

        Returns:
            The answer; ``None`` if there is none, and then the message should run.
        """
        inquiry = _Inquiry(key, occurrence, publication)
        with self._news:
            inquiry.abandoned = self._trouble
            self._backlog.append(inquiry)
            self._news.notify()
        if not inquiry.abandoned and not inquiry.done.wait(LIMIT):
            with self._news:
                inquiry.abandoned = inquiry.answer is None
            if inquiry.abandoned:
                self._give_up(f"{self._server} did not answer within {1000 * LIMIT:g} ms")
        return None if inquiry.abandoned else inquiry.answer

    # The thread

    def _run(self) -> None:
        self._attempt(None)
        self._greeted.set()
        while not self._closing.is_set():
            if not self._attempt(self._next()):
                self._closing.wait(PAUSE)

    def _next(self) -> _Inquiry | None:
        """Return the oldest inquiry; ``None`` if Redis itself is to be tried."""
        with self._news:
            if not self._backlog and not self._trouble:
                self._news.wait(IDLE)
            return self._backlog[0] if self._backlog else None

    def _attempt(self, inquiry: _Inquiry | None) -> bool:
        """Ask once; return whether to go on at once."""
        began = time.monotonic()
        try:
            if inquiry is None:
                accept(self._client, self._key, _TRIAL, _TRIAL, window=1)
            else:
                answer = accept(
                    self._client,
                    inquiry.key,
                    inquiry.occurrence,
                    inquiry.publication,
                    window=self._window,
                )
        except Exception as exc:  # whatever it is, the loop must not wait for a dead thread
            self._failed(inquiry, exc)
            return False
        if inquiry is not None:
            self._answered(inquiry, answer)
            return True
        return not self._trouble or self._recovered(time.monotonic() - began)

    def _failed(self, inquiry: _Inquiry | None, error: Exception) -> None:
        if self._closing.is_set():
            return
        known = isinstance(error, StoreError)
        self._give_up(f"{self._server}: {error if known else repr(error)}")
        if inquiry is not None:
            with self._news:
                inquiry.abandoned = True
            inquiry.done.set()

    def _answered(self, inquiry: _Inquiry, answer: Acceptance) -> None:
        with self._news:
            if self._backlog and self._backlog[0] is inquiry:
                self._backlog.popleft()
            inquiry.answer = answer
            late = inquiry.abandoned
        inquiry.done.set()
        if not late:
            return
        self.late += 1
        if not answer.may_run:
            self.doubled += 1
            logger.error(
                "The periodic run %s of %s was executed twice: publication %s was let through "
                "without being checked, and %s had been accepted before",
                inquiry.occurrence,
                inquiry.key,
                inquiry.publication,
                answer.publication,
            )

    def _recovered(self, took: float) -> bool:
        if took > SWIFT:
            return False
        with self._news:
            if self._backlog:
                return True
            self._trouble = False
        logger.warning("%s answers again: periodic runs are checked again", self._server)
        return True

    def _give_up(self, why: str) -> None:
        with self._news:
            known, self._trouble = self._trouble, True
            self._news.notify()
        if not known:
            logger.warning(
                "Periodic runs are executed without checking that each is the first of its kind, "
                "until Redis answers again (%s)",
                why,
            )
