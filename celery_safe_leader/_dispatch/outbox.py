"""The pipeline's line to the broker: messages are built, collected and sent.

Speaks with the builder and the publisher alone. Each step sets the state of its runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from celery_safe_leader._dispatch.health.complaints import Complaints
from celery_safe_leader._dispatch.health.patience import Cause, Patience
from celery_safe_leader._dispatch.health.tally import Tally
from celery_safe_leader._dispatch.health.user_calls import (
    CallHangsError,
    UserCall,
    UserCalls,
)
from celery_safe_leader._dispatch.outcomes import (
    BuildError,
    Collected,
    ExpiredRunError,
    Failed,
    NotPlain,
    NotSent,
    Outcome,
    Refused,
    Uncertain,
)
from celery_safe_leader._dispatch.ports import Making, MessageBuilder, MessagePublisher
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.run_events import RunEvents
from celery_safe_leader._dispatch.tenure import Gate, Tenure
from celery_safe_leader._dispatch.unsettled import Unsettled
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._loggers import celery_beat_logger
from celery_safe_leader._schedules.moments import SECOND_US, now_us
from celery_safe_leader._schedules.safe_text import is_containable

__all__ = ["Outbox"]

_KEPT_BACK_US = SECOND_US
"""Microseconds by which the times in a message may be off that count from its publication."""


class Outbox:
    """Messages of one tenure. For one thread.

    Args:
        tenure: Whose token the messages carry.
        builder: Builds them.
        publisher: Gets them to the broker.
        unsettled: Is told what the broker refuses, and that it accepts messages.
        patience: Is told the same.
        calls: Makes calls of user code.
        keep: Called with each run that user code keeps, with its call, and with what to do when
            that has returned; the call is ``None`` if none was started.
        events: Is told what is published, and what is recorded that was given up.
    """

    def __init__(
        self,
        tenure: Tenure,
        builder: MessageBuilder,
        publisher: MessagePublisher,
        unsettled: Unsettled,
        patience: Patience,
        calls: UserCalls,
        keep: Callable[[Run, UserCall | None, Callable[[UserCall], None]], None],
        events: RunEvents | None = None,
    ) -> None:
        self._token = tenure.token
        self._events = events or RunEvents()
        self._builder = builder
        self._publisher = publisher
        self._unsettled = unsettled
        self._patience = patience
        self._calls = calls
        self._keep = keep
        self._still_leads = tenure.still_leads
        self._told: set[str] = set()
        self._complaints = Complaints()
        self.tally = Tally()
        """What came of them."""

    def build_early(self, run: Run) -> None:
        """Build the message of a run whose moment is still to come, if it would be the same."""
        making = self._builder.making(run.entry.source)
        is_due = making is Making.AT_THE_MOMENT and run.claim.moment <= now_us()
        if is_due or making is Making.EARLY:
            self._build(run, making)

    def build(self, run: Run) -> None:
        """Build the message of a run, or give the run up; or user code keeps it."""
        self._build(run, self._builder.making(run.entry.source))

    def _build(self, run: Run, making: Making) -> None:
        build = partial(self._builder.build_run, run.entry.source, run.claim, self._token)
        try:
            if making is Making.EARLY:
                run.built(build())
            else:
                run.built(self._calls.run(run.name, "what builds its message", build))
        except CallHangsError as exc:
            self._keep(run, exc.call, partial(self._built_late, run))
        except BaseException as exc:
            if not is_containable(exc):
                raise
            self.cannot_build(run, exc)

    def _built_late(self, run: Run, call: UserCall) -> None:
        try:
            run.built(call.result())
        except Exception as exc:
            self.cannot_build(run, exc)
        if run.state is RunState.CLAIMED:
            self.send([run], self._still_leads)

    def cannot_build(self, run: Run, error: BaseException) -> None:
        """Give a run up for what was raised instead of its message."""
        if not isinstance(error, BuildError):
            error = BuildError.of(run.name, run.entry.source, error)
        self._give_up(run, error)

    def collect(self, runs: Sequence[Run]) -> None:
        """Let the broker's client make the commands of messages, and send nothing.

        A run whose message is more than one push is not plain any more; one whose message cannot be
        made is given up.
        """
        runs, moments = self._count_anew(runs)
        if not runs:
            return
        outcomes = self._publisher.collect([run.message for run in runs], moments)
        trouble: Failed | None = None
        for run, outcome, moment in zip(runs, outcomes, moments, strict=True):
            if isinstance(outcome, Collected):
                run.push, run.nonce = outcome
                run.counted_us = moment
            elif isinstance(outcome, Refused):
                self._give_up(run, outcome.error)
            elif isinstance(outcome, Failed) and not outcome.reached:
                trouble = outcome
            else:
                run.is_plain = False
                if isinstance(outcome, NotPlain):
                    self._tell(run, outcome.reason)
        if trouble is not None:
            self.failed(trouble.error, len(runs))

    def kept_back(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs with a command that was made so long ago that its times may be off."""
        now = now_us()
        return [
            run for run in runs if run.push is not None and now - run.counted_us > _KEPT_BACK_US
        ]

    def count_again(self, runs: Sequence[Run]) -> None:
        """Make commands anew whose messages have times that count from publication.

        For runs of which it is not known whether they were published. A command that cannot be
        made now stays as it is.
        """
        now = now_us()
        runs = self.kept_back(runs)
        messages = [self._publisher.counted_from(run.message, now) for run in runs]
        later = [(r, m) for r, m in zip(runs, messages, strict=True) if m is not r.message]
        if not later:
            return
        outcomes = self._publisher.collect([message for _, message in later], [now] * len(later))
        for (run, message), outcome in zip(later, outcomes, strict=True):
            if isinstance(outcome, Collected):
                run.message, run.counted_us = message, now
                run.push, run.nonce = outcome

    def _tell(self, run: Run, reason: str) -> None:
        if run.name not in self._told:
            self._told.add(run.name)
            logger.info(
                "Runs of entry %r are claimed, published and committed (write-ahead): %s",
                run.name,
                reason,
            )

    def forget(self, name: str) -> None:
        """Drop what is remembered of an entry that is gone."""
        self._told.discard(name)
        self._complaints.forget(name)

    def notify(self, runs: Sequence[Run]) -> None:
        """Tell who listens that the messages of runs are in their queues."""
        if runs:
            self._arrived(runs, "transactional")
            self._publisher.notify([(run.message, run.nonce) for run in runs])

    def send(self, runs: Sequence[Run], may_write: Gate) -> list[tuple[Run, Failed]]:
        """Hand the messages of claimed runs to the broker.

        Args:
            runs: Claimed, or claimed by ``may_write``.
            may_write: Asked right before each write.

        Returns:
            The runs that failed before they were claimed.
        """
        runs, _ = self._count_anew(runs)
        outcomes = self._publisher.publish([run.message for run in runs], may_write)
        unclaimed: list[tuple[Run, Failed]] = []
        owed: list[tuple[Run, Failed | Uncertain]] = []
        for run, outcome in zip(runs, outcomes, strict=True):
            if run.state is RunState.CLAIMED:
                owed += self._sent(run, outcome)
            elif isinstance(outcome, Refused):
                # Else its claim failed, or was refused: that decides what follows.
                if run.state is RunState.BUILT:
                    self._give_up(run, outcome.error)
            elif isinstance(outcome, Failed):
                unclaimed.append((run, outcome))
        self.owe(owed)
        return unclaimed

    def _count_anew(self, runs: Sequence[Run]) -> tuple[list[Run], list[int]]:
        """Let the times of messages count from now, or from the moment that is still to come.

        Runs that would go out expired are given up.

        Returns:
            The other runs, and when each is published.
        """
        now = now_us()
        kept, moments = [], []
        for run in runs:
            moment = max(now, run.claim.moment)
            run.message = self._publisher.counted_from(run.message, moment)
            late = self._publisher.expired_for(run.message, moment)
            if late is None:
                kept.append(run)
                moments.append(moment)
            else:
                self._give_up(run, ExpiredRunError.by(run.name, run.entry.source, late))
        return kept, moments

    def _sent(self, run: Run, outcome: Outcome) -> list[tuple[Run, Failed | Uncertain]]:
        """Note what became of a claimed run; return it if it is owed."""
        if isinstance(outcome, Failed | Uncertain):
            return [(run, outcome)]
        if isinstance(outcome, Refused):
            self._give_up(run, outcome.error)
        elif not isinstance(outcome, NotSent):
            self._arrived([run], "write-ahead")
            run.to(RunState.SENT)
        return []

    def owe(self, failed: Sequence[tuple[Run, Failed | Uncertain]]) -> None:
        """Note that the broker did not take the messages of claimed runs."""
        blamed = []
        for run, why in failed:
            run.to(RunState.OWED)
            self._unsettled.add(run.claim)
            if why.reached:
                blamed.append(run.claim)
        if failed:
            self._events.counts.broker_errors += 1
        if failed and not (len(failed) == 1 and self._is_refused(*failed[0])):
            self._patience.failed(time.monotonic(), Cause.BROKER)
            self._unsettled.failed(blamed, failed[0][1].error)

    def _is_refused(self, run: Run, why: Failed | Uncertain) -> bool:
        """Note a message that is refused by what it goes to, while others are accepted."""
        where = self._publisher.refuses(run.message, why.error) if why.reached else ""
        return bool(where) and self._unsettled.refused(run.claim, where, why.error)

    def failed(self, error: BaseException, waiting: int) -> None:
        """Note that the broker cannot be reached; no message is to blame."""
        self._events.counts.broker_errors += 1
        self._patience.failed(time.monotonic(), Cause.BROKER)
        self._unsettled.failed((), error, waiting=waiting)

    def _arrived(self, runs: Sequence[Run], way: str) -> None:
        self._patience.published()
        self._unsettled.published()
        self.tally.arrived(runs)
        self._events.counts.arrived(len(runs), way, self.tally.lateness or 0.0)
        if self._events.wants_published:
            self._events.published([run.claim for run in runs], self._token, way)
        if celery_beat_logger.isEnabledFor(logging.INFO):
            for run in runs:
                if not run.is_called:  # else Celery has said so
                    task = getattr(run.entry.source, "task", "")
                    celery_beat_logger.info("Scheduler: Sending due task %s (%s)", run.name, task)

    def _give_up(self, run: Run, error: BuildError) -> None:
        # Permanent: the same arguments fail again. It is recorded unpublished.
        run.give_up()
        run.error = error

    def tell_given_up(self, run: Run) -> None:
        """Tell of a run that was given up, now that it is recorded.

        Until then it may be held back, as by a pause, and be given up anew with each look.
        """
        error, run.error = run.error, None
        if error is None:
            return
        is_expired = isinstance(error, ExpiredRunError)
        if is_expired:
            self.tally.missed += 1
        else:
            self.tally.given_up += 1
        if self._complaints.may_say(run.name):
            more = self._complaints.since(run.name)
            if is_expired:
                logger.warning("%s. Nobody would run it; the entry continues%s", error, more)
            else:
                logger.error("%s. This run is given up; the entry continues%s", error, more)
        self._events.missed(run.name, self._token, 1, "expired" if is_expired else "given-up")
