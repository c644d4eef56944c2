"""Runs that Celery's own code sends: called at their moment, one by one, after a look.

What it gives to the producer is published either while that code waits, which then knows what
became of it, or when it has returned.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._core.steps import Steps, complete
from celery_safe_leader._dispatch.health.patience import Cause, Patience
from celery_safe_leader._dispatch.health.user_calls import (
    CallQuestion,
    NextCall,
    UserCall,
    UserCalls,
)
from celery_safe_leader._dispatch.outbox import Outbox
from celery_safe_leader._dispatch.outcomes import BuildError, Called, Failed, NotPublishedError
from celery_safe_leader._dispatch.ports import Making, MessageBuilder, MessagePublisher
from celery_safe_leader._dispatch.records import Records
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import SECOND_US
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["CalledRuns", "RoundsPart"]

_WHAT = "apply_entry"
_SHORTEST_BACK_OFF = 0.5
_LONGEST_BACK_OFF = 30.0
"""Both in seconds."""
_ENDED = (RunState.DONE, RunState.SENT, RunState.GIVEN_UP)


@dataclass(frozen=True, slots=True)
class RoundsPart:
    """What is done with runs elsewhere."""

    publish: Callable[[Run], Steps[None]]
    """Publishes one that is built, or records one that was given up."""
    sort: Callable[[Sequence[Run]], None]
    """Puts runs where their states say."""
    keep: Callable[
        [str, UserCall | None, Callable[[UserCall], None], Callable[[CallQuestion], None]], None
    ]
    """Keeps an entry until a call has returned: its name, the call, what is done then, and what is
    done with a question."""
    is_too_late: Callable[[Run], bool]
    """Whether a run is by now too late to the missed-run policy."""


@dataclass(slots=True)
class _Kept:
    """The messages of a run that was called and has not ended."""

    source: Any
    occurrence: str
    messages: Sequence[Any]


class CalledRuns:
    """Such runs of one tenure. For one thread."""

    def __init__(
        self,
        tenure: Tenure,
        builder: MessageBuilder,
        publisher: MessagePublisher,
        records: Records,
        outbox: Outbox,
        calls: UserCalls,
        patience: Patience,
        rounds: RoundsPart,
    ) -> None:
        self._tenure = tenure
        self._builder = builder
        self._publisher = publisher
        self._records = records
        self._outbox = outbox
        self._calls = calls
        self._patience = patience
        self._rounds = rounds
        self._kept: dict[str, _Kept] = {}
        self._asking: dict[str, Run] = {}
        self._failures: dict[str, int] = {}
        self._error: SafeLeaderError | None = None
        self._publication: Steps[None] | None = None

    def publish(self, runs: Sequence[Run], may_publish: Callable[[], bool]) -> None:
        """Publish runs whose moment has come, one by one.

        Args:
            runs: Scheduled, or claimed by an earlier leader. Those that are not reached stay so.
            may_publish: Asked before each.

        Raises:
            SafeLeaderError: What the ledger raises. The states are set before.
        """
        claimed = [run for run in runs if run.state is RunState.CLAIMED]
        scheduled = [run for run in runs if run.state is RunState.SCHEDULED]
        rest = dict.fromkeys(runs)
        try:
            free = self._records.look(scheduled) if scheduled else []
            self._calls.series(partial(self._next, deque((*claimed, *free)), rest, may_publish))
        finally:
            try:
                self._finish_publication()
            finally:
                self._rounds.sort(list(rest))

    def answer(self, runs: Sequence[Run]) -> None:
        """Tell the calls that wait for it what became of runs; those states are final."""
        for run in runs:
            if run.question is not None and run.state is not RunState.UNANSWERED:
                self._asking.pop(run.name, None)
                self._calls.go_on(run.name)
                self._answer(run)

    def end(self) -> None:
        """Answer all calls that wait: nothing more will be known here of their runs."""
        for run in self._asking.values():
            if run.question is not None:
                run.question.answer(NotPublishedError(run.name, "its outcome is not known"))
        self._asking.clear()

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that has changed or is gone."""
        self._kept.pop(name, None)
        self._failures.pop(name, None)

    # One run

    def _next(
        self, runs: deque[Run], rest: dict[Run, None], may_publish: Callable[[], bool]
    ) -> NextCall | None:
        """Return the next call; publish the runs before it whose messages are there already."""
        while runs and may_publish():
            run = runs.popleft()
            del rest[run]
            following = self._begin(run)
            if following is not None:
                return following
        return None

    def _begin(self, run: Run) -> NextCall | None:
        if self._is_left_out(run):
            return None  # the calls before it took their time
        run.is_called = True
        kept = self._kept.pop(run.name, None)
        if kept and kept.occurrence == run.claim.occurrence and kept.source is run.entry.source:
            self._publish_messages(run, kept.messages)
            return None
        try:
            # First: that may take as long as a call that hangs.
            self._publisher.connect()
        except Exception as exc:
            self._not_sent(run, exc, is_broker=True)
            return None
        return self._call(run)

    def _call(self, run: Run) -> NextCall:
        within = self._builder.making(run.entry.source) is Making.CALLED_WITHIN
        serve = partial(self._serve, run)

        def call(ask: Callable[[CallQuestion], None]) -> Called:
            publish = partial(self._ask, run.name, ask) if within else None
            return self._builder.call(run.entry.source, run.claim, self._tenure.token, publish)

        def returned(call: UserCall) -> None:
            try:
                called: Called = call.result()
            except Exception as exc:
                self._raised(run, exc)
            else:
                self._called(run, called)
            self.check()

        def left(call: UserCall | None) -> None:
            if call is not None:
                call.when_over(self._publisher.leave_connection())
            self._rounds.keep(run.name, call, partial(self._called_late, run), serve)
            self.check()

        return NextCall(run.name, _WHAT, call, serve, returned, left)

    def check(self) -> None:
        """Raise what the ledger raised while a call waited."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _called_late(self, run: Run, call: UserCall) -> None:
        """Handle what a call returned that was left alone. It is published in its turn."""
        if run.question is not None:
            return
        try:
            called: Called = call.result()
        except Exception as exc:
            called = Called((), BuildError.of(run.name, run.entry.source, exc))
        if called.trouble is not None:
            self._trouble(run, called.trouble)
        elif called.messages:
            self._number(run, len(called.messages))
            run.built(_together(called.messages))
            if run.state is RunState.CLAIMED:
                complete(self._rounds.publish(run))
        else:
            self._nothing(run, called)
        self._rounds.sort([run])

    def _raised(self, run: Run, error: Exception) -> None:
        """Give a run up whose call ended in a way that Celery's code does not know."""
        if run.question is None:
            self._outbox.cannot_build(run, error)
            self._finish(run)

    def _called(self, run: Run, called: Called) -> None:
        """Go on with what a call has brought, unless it was published within."""
        if run.question is not None:
            return
        if called.trouble is not None:
            self._not_sent(run, called.trouble, is_broker=called.is_broker)
        elif not called.messages:
            self._nothing(run, called)
            self._finish(run)
        elif not self._is_left_out(run):
            self._publish_messages(run, called.messages)

    def _is_left_out(self, run: Run) -> bool:
        """Leave a run out that is too late by now; return whether it is."""
        if not self._rounds.is_too_late(run):
            return False
        if run.state is not RunState.CLAIMED:  # else settling finds the same, and says so
            run.to(RunState.DROPPED)
        self._rounds.sort([run])
        return True

    def _nothing(self, run: Run, called: Called) -> None:
        if called.error is not None:
            self._outbox.cannot_build(run, called.error)
        else:
            logger.info(
                "Entry %r: its run is done, and no message of it was sent by this beat", run.name
            )
            run.give_up()

    def _finish(self, run: Run) -> None:
        """Let a run be recorded that was given up."""
        try:
            self._finish_publication()
            if run.entry.claim != run.claim:
                complete(self._rounds.publish(run))
        finally:
            self._rounds.sort([run])

    def _not_sent(self, run: Run, error: BaseException, *, is_broker: bool) -> None:
        """Leave a run due whose call met an error of a connection, the broker's or another."""
        try:
            # It went out before: its arrival does not mean that the trouble is over.
            self._finish_publication()
        finally:
            if is_broker:
                self._outbox.failed(error, 1)
            self._trouble(run, None if is_broker else error)
            self._rounds.sort([run])

    def _trouble(self, run: Run, error: BaseException | None) -> None:
        """Leave a run due that a connection was in the way of.

        Args:
            run: Scheduled or claimed.
            error: What some other connection than the broker's raised.
        """
        if error is not None:
            self._patience.failed(time.monotonic(), Cause.BROKER)
            failures = self._failures[run.name] = self._failures.get(run.name, 0) + 1
            pause = backoff(failures, first=_SHORTEST_BACK_OFF, longest=_LONGEST_BACK_OFF)
            logger.error(
                "Entry %r: sending its run failed: %r. The run stays due; trying again in %.1f s",
                run.name,
                error,
                pause,
            )
            if run.state is RunState.SCHEDULED:
                run.again_us = round(pause * SECOND_US)
                run.to(RunState.HELD_BACK)
        if run.state is RunState.CLAIMED:
            self._outbox.owe([(run, Failed(error or ConnectionError("no connection")))])

    def _publish_messages(self, run: Run, messages: Sequence[Any]) -> None:
        self._failures.pop(run.name, None)
        self._number(run, len(messages))
        run.built(_together(messages))
        publication = self._publishing(run, messages)
        if run.question is not None:
            complete(publication)
        elif next(publication, self) is None:
            # Redis has it. The next run is called meanwhile.
            self._publication = publication

    def _publishing(self, run: Run, messages: Sequence[Any]) -> Steps[None]:
        try:
            self._finish_publication()  # of the run before
            yield from self._rounds.publish(run)
        finally:
            if run.question is None:
                if run.state not in _ENDED:
                    kept = _Kept(run.entry.source, run.claim.occurrence, messages)
                    self._kept[run.name] = kept
                self._rounds.sort([run])

    def _finish_publication(self) -> None:
        """Wait for what becomes of the run that was sent last, if it is not known yet."""
        publication, self._publication = self._publication, None
        if publication is not None:
            complete(publication)

    def _number(self, run: Run, count: int) -> None:
        """Note of how many messages a run is, before it is claimed."""
        if run.state is RunState.CLAIMED and run.claim.messages != count:
            logger.error(
                "Entry %r: its run was claimed as %d messages, and is sent as %d now: each call "
                "for a run has to send the same messages in the same order",
                run.name,
                run.claim.messages,
                count,
            )
        if count > 1:
            # The script knows one message for each run.
            run.is_plain = False
            if run.state is RunState.SCHEDULED:
                run.claim = replace(run.claim, messages=count)

    # Published while the call waits

    def _ask(self, name: str, ask: Callable[[CallQuestion], None], message: Any) -> None:
        """Have a message published, on the thread of the call; return when it is in its queue."""
        question = CallQuestion(message)
        ask(question)
        over = NotPublishedError(name, "this process does not lead any more")
        question.wait(self._tenure.still_leads, over)

    def _serve(self, run: Run, question: CallQuestion) -> None:
        """Publish what a call asks for, on the thread that dispatches."""
        if run.question is not None:
            question.answer(NotPublishedError(run.name, "a run has one message"))
            return
        run.question = question
        if self._is_left_out(run):
            question.answer(NotPublishedError(run.name, "it is too late by now"))
            return
        try:
            self._publish_messages(run, [question.item])
        except SafeLeaderError as exc:
            self._error = exc
        if run.state is RunState.UNANSWERED:
            self._asking[run.name] = run
            return
        self._rounds.sort([run])
        self._answer(run)

    def _answer(self, run: Run) -> None:
        question = run.question
        if question is None:
            return
        if run.state in (RunState.DONE, RunState.SENT) and not run.gave_up:
            question.answer()
        else:
            question.answer(NotPublishedError(run.name, f"its run is {run.state.value}"))


def _together(messages: Sequence[Any]) -> Any:
    return messages[0] if len(messages) == 1 else tuple(messages)
