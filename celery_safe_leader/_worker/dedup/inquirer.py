"""A worker's questions to the election's Redis, asked so that the worker's loop never hangs.

The loop asks over an open connection and waits briefly for the reply: for a few round trips, as
they were measured. Everything that can take longer (name resolution, connecting, logging in) is
done by a background thread. When a connection breaks, as idle ones do, the loop waits for the
thread to make a new one and asks once more. If that fails, the loop stops asking until the thread
has found that Redis works again. Unanswered questions are replayed then, so that runs let through
unchecked are recorded after all.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from typing import Any, NamedTuple

import redis

from celery_safe_leader._ledger.acceptance import Acceptance, accept
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._store.errors import translate
from celery_safe_leader.errors import StoreError, StoreRefusedError

__all__ = ["LONGEST_LIMIT", "Inquirer"]

SHORTEST_LIMIT, LONGEST_LIMIT = 0.06, 1.0
"""Seconds that the loop waits for a reply; the longer one must be the client's read timeout. It
waits as long again, at most, for a connection in place of one that broke."""
_ROUND_TRIPS = 4
"""The limit, in round trips."""
_FADING = 0.9
"""By what the longest round trip fades with each shorter one."""
PAUSE = 1.0
"""Seconds between two attempts to connect."""
IDLE = 30.0
"""Seconds after which an idle connection is tested, so that a dead one is found in time."""
FIRST_CONNECTION = 1.0
"""Seconds that a starting worker waits for the first connection."""
BACKLOG = 1000
"""How many unanswered questions are kept; the newest ones."""


class _AcceptanceQuestion(NamedTuple):
    """Is this publication the first of its occurrence?"""

    key: str
    occurrence: str
    publication: str


class _InquiryLine:
    """An open connection. It never reconnects: a new one is made instead.

    A client of redis-py connects whenever it has to, so the loop cannot use one.
    """

    def __init__(self, client: redis.Redis) -> None:
        pool: Any = client.connection_pool  # which itself makes no more than 100 in its life
        self._connection = pool.connection_class(**pool.connection_kwargs)
        self.limit = LONGEST_LIMIT
        """Seconds that the next reply may take."""
        try:
            self._connection.connect()
        except BaseException:
            self.close()
            raise

    def execute_command(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        if not self._connection.can_read(self.limit):
            raise redis.TimeoutError(f"no reply within {self.limit:.2g} s")
        return self._connection.read_response()

    def close(self) -> None:
        self._connection.disconnect()


class Inquirer:
    """Asks whether a publication is the first of its occurrence.

    Belongs to the process that starts it. ``ask`` may be called from any thread.
    """

    def __init__(
        self, client: redis.Redis, server: str, key: str, window: float, prefix: str = ""
    ) -> None:
        """Create an inquirer. Does no IO and starts nothing.

        Args:
            client: For the election's Redis, with ``LONGEST_LIMIT`` as its read timeout.
            server: The same server as it may be shown, without secrets.
            key: Under which Redis is tested.
            window: Seconds for which an accepted occurrence is remembered.
            prefix: Of all keys in Redis.
        """
        self._prefix = prefix
        self.late = 0
        """Runs that were let through unchecked and have been recorded since."""
        self.doubled = 0
        """Those of them that ran twice, since another publication had been accepted."""
        self._client = client
        self._server = server
        self._key = key
        self._window = window
        self._lock = threading.Lock()  # held for one question, so never longer than the limit
        self._line: _InquiryLine | None = None
        self._unanswered: deque[_AcceptanceQuestion] = deque(maxlen=BACKLOG)
        self._failing = False
        self._round_trip = 0.0
        self._why_lost = ""
        # Cleared from the loss of a working connection to the end of the attempt to replace it.
        self._settled = threading.Event()
        self._settled.set()
        self._wake = threading.Event()
        self._first_attempt_done = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def answers(self) -> bool:
        """Whether Redis answered properly when it was last asked."""
        return self._line is not None

    def start(self) -> None:
        """Connect and wait for that briefly. Does nothing if it was started already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="leader:accept", daemon=True)
            self._thread.start()
            if not self._first_attempt_done.wait(FIRST_CONNECTION):
                self._report(f"{self._server}: no answer within {FIRST_CONNECTION:g} s")

    def close(self) -> None:
        """End the thread and close the connection; unanswered questions are dropped."""
        self._closed = True
        self._wake.set()
        with self._lock:
            self._drop_line()

    def ask(self, key: str, occurrence: str, publication: str) -> Acceptance | None:
        """Ask, for ``LONGEST_LIMIT`` at most; do not ask at all while Redis fails.

        Over a connection that broke it asks once more when there is a new one.

        Returns:
            The answer; ``None`` if there is none: the message should run then.
        """
        question = _AcceptanceQuestion(key, occurrence, publication)
        with self._lock:
            answer, patience = self._attempt(question)
        if answer is None and patience > 0 and not self._settled.wait(patience):
            self._settled.set()  # nobody else waits for it
        with self._lock:
            if answer is None:
                answer, _ = self._attempt(question)
            if answer is None:
                self._unanswered.append(question)
                self._report(self._why_lost)
            return answer

    @property
    def limit(self) -> float:
        """Seconds that the loop waits for a reply now."""
        return min(LONGEST_LIMIT, max(SHORTEST_LIMIT, _ROUND_TRIPS * self._round_trip))

    def _attempt(self, question: _AcceptanceQuestion) -> tuple[Acceptance | None, float]:
        """Return the answer, or ``None`` and for how long to wait for another connection."""
        line = self._line
        if line is None:
            return None, 0.0 if self._settled.is_set() else self.limit / 2
        try:
            line.limit = self.limit
            began = time.monotonic()
            answer = self._put(question, line)
        except Exception as exc:  # the message runs, whatever is wrong here
            self._lose_line(exc)
            if isinstance(exc, StoreRefusedError):
                return None, 0.0
            hangs = isinstance(exc.__cause__, redis.TimeoutError)
            return None, self.limit / 2 if hangs else LONGEST_LIMIT
        self._measured(time.monotonic() - began)
        return answer, 0.0

    def _measured(self, seconds: float) -> None:
        self._round_trip = max(seconds, _FADING * self._round_trip)

    def _put(self, question: _AcceptanceQuestion, line: _InquiryLine) -> Acceptance:
        return accept(line, *question, window=self._window, prefix=self._prefix)

    def _try(self, line: _InquiryLine) -> None:
        """Test that Redis accepts a run. It must write, hence a new occurrence each time."""
        occurrence = f"trial-{uuid.uuid4().hex}"
        began = time.monotonic()
        accept(line, self._key, occurrence, "trial", window=1, prefix=self._prefix)
        self._measured(time.monotonic() - began)

    # While holding the lock

    def _lose_line(self, error: Exception) -> None:
        self._drop_line()
        self._why_lost = self._described(error)
        if isinstance(error, StoreRefusedError):
            self._report(self._why_lost)
        else:
            self._settled.clear()
        self._wake.set()

    def _drop_line(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    # On the background thread

    def _run(self) -> None:
        while not self._closed:
            if self._line is not None:
                healthy = self._try_line()
            else:
                healthy = self._connect()
                self._settled.set()
            self._first_attempt_done.set()
            if self._wake.wait(IDLE if healthy else PAUSE):
                self._wake.clear()

    def _try_line(self) -> bool:
        with self._lock:
            if self._line is None:
                return False
            self._line.limit = self.limit
            try:
                self._try(self._line)
            except Exception as exc:
                self._lose_line(exc)
                return False
        return True

    def _connect(self) -> bool:
        """Connect and replay unanswered questions; return whether all of it succeeded."""
        line = None
        try:
            line = _InquiryLine(self._client)
            self._try(line)
            while not self._hand_over(line):
                self._record(self._unanswered[0], line)
        except Exception as exc:
            # If the thread ended, nobody would find out that Redis works again.
            if line is not None:
                line.close()
            self._report(self._described(exc))
            return False
        return True

    def _hand_over(self, line: _InquiryLine) -> bool:
        """Give the connection to the loop unless questions are left; return whether it was done."""
        with self._lock:
            if self._unanswered:
                return False
            if self._closed:
                line.close()
                return True
            self._line = line
            recovered, self._failing = self._failing, False
        if recovered:
            logger.warning("%s answers again: periodic runs are checked again", self._server)
        return True

    def _record(self, question: _AcceptanceQuestion, line: _InquiryLine) -> None:
        try:
            answer = self._put(question, line)
        except StoreRefusedError as exc:
            # Only this question was refused: the test was not.
            logger.error("Periodic run %s cannot be recorded: %s", question.occurrence, exc)
            self._forget(question)
            return
        self._forget(question)
        self.late += 1
        if not answer.may_run:
            self.doubled += 1
            logger.error(
                "Periodic run %s of %s was executed twice: publication %s was let through "
                "unchecked, and %s had been accepted before",
                question.occurrence,
                question.key,
                question.publication,
                answer.publication,
            )

    def _forget(self, question: _AcceptanceQuestion) -> None:
        with self._lock:
            if self._unanswered[0] is question:  # newer ones may have pushed it out
                self._unanswered.popleft()

    def _described(self, error: Exception) -> str:
        if isinstance(error, (redis.RedisError, OSError)):
            error = translate(self._server, error)
        return f"{self._server}: {error.detail if isinstance(error, StoreError) else repr(error)}"

    def _report(self, why: str) -> None:
        if not self._failing and not self._closed:
            self._failing = True
            logger.warning(
                "Until Redis answers again, periodic runs are executed without a check for second "
                "publications: %s",
                why,
            )
