"""Calls of user code that may hang: each has a few seconds, and then goes on alone.

Lazy arguments, schedules, receivers of signals and task classes are other people's code. It runs on
a thread of its own, for which the thread that dispatches waits only so long. A call that has not
returned by then keeps its thread; the next call gets another one. Each call has a context of its
own (``contextvars``), a copy of that of the thread that dispatches, which ends with it.

Calls that come one after the other are a series: the thread that dispatches lends its work to the
thread of the calls, and waits, since a change of threads before and after each call and each of its
questions would cost more than the call. A call that hangs ends that: the work goes back.
"""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.safe_text import safe_repr
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["CallHangsError", "CallQuestion", "NextCall", "UserCall", "UserCalls"]

_LIMIT = 5.0
"""Seconds that are waited for a call."""
_LOOK_EVERY = 0.1
"""Seconds after which a call that waits for an answer looks whether that can still come."""
_SHORTEST_WAIT = 0.001
"""Seconds."""
_MOST = 4
"""Calls that may hang at once. With so many no further one is started."""

T = TypeVar("T")


class CallQuestion:
    """What a call asks of the thread that dispatches, and waits for."""

    def __init__(self, item: Any) -> None:
        self.item = item
        self._answers: SimpleQueue[BaseException | None] = SimpleQueue()
        self.is_answered = False

    def answer(self, error: BaseException | None = None) -> None:
        """Let the call go on, or raise an error there. The first answer counts."""
        if not self.is_answered:
            self.is_answered = True
            self._answers.put(error)

    def wait(self, may_wait: Callable[[], bool], given_up: BaseException) -> None:
        """Wait for the answer; raise the error that it is.

        Args:
            may_wait: Whether there can be one still.
            given_up: Raised if not.
        """
        while True:
            try:
                error = self._answers.get(timeout=_LOOK_EVERY)
            except Empty:
                if not may_wait():
                    raise given_up from None
                continue
            if error is not None:
                raise error
            return


class UserCall:
    """One call: whether it is over, and what came of it."""

    def __init__(
        self,
        name: str,
        what: str,
        function: Callable[[UserCall], Any],
        series: _Series | None = None,
    ) -> None:
        self.name = name
        """Of the entry."""
        self.what = what
        """What is called, for people."""
        self.started = time.monotonic()
        self._function: Callable[[UserCall], Any] | None = function
        self._series = series
        self.waits = False
        """Whether it was left alone because it waits for an answer."""
        self.is_over = False
        """Whether it has returned, or raised."""
        # A question, or nothing at its end.
        self._said: SimpleQueue[CallQuestion | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._afterwards: list[Callable[[], None]] = []
        self._result: Any = None
        self._error: BaseException | None = None

    def wait(self, seconds: float) -> bool:
        """Wait for its end; return whether it has come. Questions are passed over."""
        until = time.monotonic() + seconds
        while not self.is_over and (left := until - time.monotonic()) > 0:
            self.next_question(left)
        return self.is_over

    def next_question(self, seconds: float) -> CallQuestion | None:
        """Wait for a question or the end; return the question, if there is one."""
        try:
            return self._said.get(timeout=seconds) if seconds > 0 else self._said.get_nowait()
        except Empty:
            return None

    def ask(self, question: CallQuestion) -> None:
        """Ask something, on the thread of the call. ``CallQuestion.wait`` waits for the answer."""
        if self._series is None or not self._series.serve(self, question):
            self._said.put(question)

    def when_over(self, function: Callable[[], None]) -> None:
        """Call a function when the call is over, on its thread; at once if it is."""
        with self._lock:
            if not self.is_over:
                self._afterwards.append(function)
                return
        function()

    def result(self) -> Any:
        """Return what it returned, or raise what it raised. Only for one that is over.

        What is no ``Exception`` is raised as ``RuntimeError``: it must not end the process.
        """
        error = self._error
        if error is None:
            return self._result
        if isinstance(error, Exception):
            raise error
        raise RuntimeError(f"{self.what} raised {safe_repr(error)}") from error

    def execute(self) -> None:
        """Make the call. Raises nothing."""
        function, self._function = self._function, None
        try:
            self._result = function(self) if function else None
        except BaseException as exc:
            self._error = exc
        with self._lock:
            self.is_over = True
        for afterwards in self._afterwards:
            afterwards()
        self._said.put(None)


@dataclass(frozen=True, slots=True)
class NextCall:
    """One call of a series, and what is done with it."""

    name: str
    """Of the entry that it is made for."""
    what: str
    """What is called, for people."""
    function: Callable[[Callable[[CallQuestion], None]], Any]
    """The call. It is given what asks a question, and waits for the answer itself."""
    serve: Callable[[CallQuestion], None]
    """Called with each question, to answer it now or later."""
    returned: Callable[[UserCall], None]
    """Called when it is over, unless it was left alone."""
    left: Callable[[UserCall | None], None]
    """Called with the call if it was left alone, and without if it was not started, since one of
    that entry or too many hang."""


class _Series:
    """Calls one after the other on one thread, with the work between them.

    That work is the dispatching thread's. It is done on the calls' thread while the other one
    waits: never both at once. When a call is left alone the other thread has it back.
    """

    def __init__(self, take: Callable[[], NextCall | None], prepare: Callable[[], object]) -> None:
        self._take = take
        self._prepare = prepare
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._context = contextvars.copy_context()
        self._next: NextCall | None = None
        self._call: UserCall | None = None
        self._is_in_call = False
        self._since = 0.0
        self.is_given_back = False
        """Whether the calls' thread has nothing more to do with the work."""
        self.left_alone: tuple[NextCall, UserCall] | None = None
        """The call that was left alone."""
        self.error: BaseException | None = None
        """What the work raised."""

    # On the thread of the calls

    def execute(self) -> None:
        """Make all calls. Raises nothing."""
        try:
            while (following := self._take()) is not None:
                call = UserCall(following.name, following.what, _asking(following), self)
                self._prepare()
                self._enter(following, call)
                # In a context of its own: what one call leaves open there is closed for others.
                contextvars.copy_context().run(call.execute)
                if not self._leave():
                    return
                following.returned(call)
        except BaseException as exc:
            self.error = exc
        self._give_back()

    def serve(self, call: UserCall, question: CallQuestion) -> bool:
        """Answer a question of the present call here; return ``False`` if others have to."""
        if self._next is None or call is not self._call or not self._leave():
            return False
        try:
            # Not in the call's context, where its tools would take this for a part of it.
            self._context.run(self._next.serve, question)
        except BaseException as exc:
            self.error = exc
        if question.is_answered and self.error is None:
            self._enter(self._next, call)
        else:
            call.waits = True
            self.left_alone = self._next, call
            self._give_back()
        return True

    def _enter(self, following: NextCall, call: UserCall) -> None:
        with self._lock:
            self._next, self._call = following, call
            self._is_in_call, self._since = True, time.monotonic()

    def _leave(self) -> bool:
        """Note that the call does not run user code now; return whether the work is still here."""
        with self._lock:
            self._is_in_call = False
            return not self.is_given_back

    def _give_back(self) -> None:
        with self._lock:
            self.is_given_back = True
        self._over.set()

    # On the thread that dispatches

    def wait(self, limit: float) -> None:
        """Wait until the work is given back, or take it back from a call that hangs.

        Args:
            limit: Seconds for each call, and again after each question.
        """
        left = limit
        while not self._over.wait(max(left, _SHORTEST_WAIT)):
            with self._lock:
                if not self._is_in_call:
                    left = limit
                    continue
                left = self._since + limit - time.monotonic()
                if left <= 0 and self._next is not None and self._call is not None:
                    self.is_given_back = True
                    self.left_alone = self._next, self._call
                    return


def _asking(following: NextCall) -> Callable[[UserCall], Any]:
    return lambda call: following.function(call.ask)


class CallHangsError(SafeLeaderError):
    """A call has not returned in time, or was not started since others have not.

    Args:
        entry: Name of the entry.
        call: The call that goes on; ``None`` if none was started.
    """

    def __init__(self, entry: str, call: UserCall | None = None) -> None:
        super().__init__(entry, call)
        self.entry = entry
        self.call = call

    def __str__(self) -> str:
        return f"entry {self.entry!r} waits for a call that has not returned"


class UserCalls:
    """The calls of one process, over all of its tenures. For the thread that dispatches.

    Args:
        prepare: Called before each call, on its thread.
        limit: Seconds that are waited for a call.
        most: Calls that may hang at once.
    """

    def __init__(
        self,
        prepare: Callable[[], object] = lambda: None,
        *,
        limit: float = _LIMIT,
        most: int = _MOST,
    ) -> None:
        self._prepare = prepare
        self._limit = limit
        self._most = most
        self._thread: _CallThread | None = None
        self._hanging: dict[str, UserCall] = {}
        self._refused: set[str] = set()

    @property
    def any_hang(self) -> bool:
        """Whether there is a call that has not returned in time."""
        return bool(self._hanging)

    @property
    def is_full(self) -> bool:
        """Whether so many calls hang that no further one is started."""
        return len(self._hanging) >= self._most

    def hangs(self, name: str) -> bool:
        """Return whether a call for an entry hangs; the entry is not called again until it ends."""
        return name in self._hanging

    def was_refused(self, name: str) -> bool:
        """Return whether a call for an entry was not started, since too many hang still."""
        return name in self._refused

    def hanging_since(self, began: float) -> list[float]:
        """Return since when the calls hang that were started after a moment of this process."""
        hanging = (call for call in self._hanging.values() if not call.waits)
        return [call.started for call in hanging if call.started >= began]

    def run(self, name: str, what: str, function: Callable[[], T]) -> T:
        """Make a call, and return what it returns or raise what it raises.

        Args:
            name: Of the entry that it is made for.
            what: What is called, for people.
            function: The call.

        Raises:
            CallHangsError: It goes on, and ``returned()`` tells when it is over; or it was not
                started.
        """
        result: T = self._finish(self._start(name, what, lambda _: function()))
        return result

    def series(self, take: Callable[[], NextCall | None]) -> None:
        """Make calls one after the other, until none is left.

        All that is given here is called on the thread of the calls, but the calls themselves as
        part of the work of the thread that calls this, which waits.

        Args:
            take: Returns the next call; ``None`` if there is none.

        Raises:
            BaseException: What ``take`` and the functions of the calls raise. What the calls
                themselves raise, ``UserCall.result()`` does.
        """
        while True:
            series = _Series(partial(self._next_of, take), self._prepare)
            if self._thread is None:
                self._thread = _CallThread(self._prepare)
            self._thread.start(series)
            series.wait(self._limit)
            if series.left_alone is not None:
                following, call = series.left_alone
                self._leave_alone(call)
                following.left(call)
            if series.error is not None:
                raise series.error
            if series.left_alone is None:
                return

    def _next_of(self, take: Callable[[], NextCall | None]) -> NextCall | None:
        while (following := take()) is not None:
            if following.name not in self._hanging and not self.is_full:
                break
            if following.name not in self._hanging:
                self._refuse(following.name)
            following.left(None)
        return following

    def questions(self) -> list[tuple[UserCall, CallQuestion]]:
        """Return what calls ask that were left alone; each question once."""
        asked = ((call, call.next_question(0)) for call in self._hanging.values())
        return [(call, question) for call, question in asked if question is not None]

    def go_on(self, name: str) -> None:
        """Note that the call for an entry has its answer: if it hangs now, it is its own fault."""
        call = self._hanging.get(name)
        if call is not None and call.waits:
            call.waits, call.started = False, time.monotonic()

    def _start(self, name: str, what: str, function: Callable[[UserCall], Any]) -> UserCall:
        if name in self._hanging:
            raise CallHangsError(name)
        if self.is_full:
            self._refuse(name)
            raise CallHangsError(name)
        if self._thread is None:
            self._thread = _CallThread(self._prepare)
        call = UserCall(name, what, function)
        self._thread.start(call)
        return call

    def _finish(self, call: UserCall) -> Any:
        if not call.wait(self._limit):
            self._leave_alone(call)
            raise CallHangsError(call.name, call)
        return call.result()

    def returned(self) -> list[UserCall]:
        """Return the calls that hung and are over by now, each once."""
        over = [call for call in self._hanging.values() if call.is_over]
        for call in over:
            del self._hanging[call.name]
            if call.waits:
                continue
            logger.info(
                "Entry %r: the call of %s has returned after %.0f s",
                call.name,
                call.what,
                time.monotonic() - call.started,
            )
        if over:
            self._refused.clear()
        return over

    def close(self) -> None:
        """End the thread that no call hangs on. Does not wait."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None

    def _leave_alone(self, call: UserCall) -> None:
        thread, self._thread = self._thread, None
        self._hanging[call.name] = call
        if thread is None:
            return
        thread.close()
        if call.waits:
            return  # through no fault of its own
        logger.error(
            "Entry %r: the call of %s has not returned after %g s: it stands at %s. The entry does "
            "not run until it returns; others are not held up",
            call.name,
            call.what,
            self._limit,
            thread.place(),
        )

    def _refuse(self, name: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            logger.error(
                "Entry %r does not run: it needs a call of user code, and none is started "
                "while %d have not returned (of entries %s)",
                name,
                len(self._hanging),
                ", ".join(f"{hanging[:80]!r}" for hanging in sorted(self._hanging)),
            )


class _CallThread:
    """A daemon thread that makes one call after the other."""

    def __init__(self, prepare: Callable[[], object]) -> None:
        self._calls: SimpleQueue[tuple[contextvars.Context, UserCall | _Series] | None]
        self._calls = SimpleQueue()
        self._prepare = prepare
        self._thread = threading.Thread(target=self._loop, name="leader:calls", daemon=True)
        self._thread.start()

    def start(self, call: UserCall | _Series) -> None:
        """Let it make a call, or a series of calls, in a copy of the present context."""
        self._calls.put((contextvars.copy_context(), call))

    def close(self) -> None:
        """End it after its present call."""
        self._calls.put(None)

    def place(self) -> str:
        """Return where it stands: file, line and function."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "its end"
        code = frame.f_code
        return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"

    def _loop(self) -> None:
        while (started := self._calls.get()) is not None:
            context, call = started
            if not isinstance(call, _Series):
                self._prepare()
            # In a context of its own: what it leaves open there is closed for others.
            context.run(call.execute)
