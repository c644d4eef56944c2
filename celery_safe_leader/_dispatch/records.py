"""The pipeline's line to the ledger: runs are published, claimed and committed in it.

Speaks with the ledger alone. Each request sets the state of its runs; what follows from that is
decided by ``Rounds``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._core.steps import Steps, complete
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.run import Run, RunState
from celery_safe_leader._dispatch.tenure import Gate
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.errors import (
    ClockAheadError,
    FencedError,
    GenerationChangedError,
    LedgerPausedError,
)
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.publications import (
    BATCH,
    FULL_BATCH,
    Batch,
    Publication,
    PublicationOutcome,
    Published,
)
from celery_safe_leader._ledger.results import (
    ClaimOutcome,
    Commit,
    CommitOutcome,
    Next,
    Settlement,
    SettlementOutcome,
)
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import now_us
from celery_safe_leader.errors import SafeLeaderError, StoreRefusedError, StoreUnavailableError

__all__ = ["Records"]

_AFTER_PUBLICATION = {
    PublicationOutcome.PUBLISHED: RunState.DONE,
    PublicationOutcome.CLAIMED: RunState.UNSETTLED,
    PublicationOutcome.DIFFERS: RunState.DROPPED,
    PublicationOutcome.CHANGED: RunState.DROPPED,
    PublicationOutcome.NOT_LATER: RunState.DROPPED,
    PublicationOutcome.AHEAD: RunState.DROPPED,
    PublicationOutcome.OVERLAPS: RunState.HELD_BACK,
    PublicationOutcome.REFUSED: RunState.BUILT,
}
_AFTER_CLAIM = {
    ClaimOutcome.CLAIMED: RunState.CLAIMED,
    ClaimOutcome.PENDING: RunState.UNSETTLED,
    ClaimOutcome.DIFFERS: RunState.DROPPED,
    ClaimOutcome.NOT_LATER: RunState.DROPPED,
    ClaimOutcome.AHEAD: RunState.DROPPED,
    ClaimOutcome.PAUSED: RunState.HELD_BACK,
    ClaimOutcome.CHANGED: RunState.DROPPED,
    ClaimOutcome.OVERLAPS: RunState.HELD_BACK,
}
_GONE: tuple[LastRun | None, Claim | None] = (None, None)
"""Of an entry that is not in the ledger, or cannot be read."""
_UNDECIDED = (StoreUnavailableError, GenerationChangedError)
"""After these it stays unknown what became of an attempt without a reply."""

_MOST_URGENT_FIRST = (
    FencedError,
    GenerationChangedError,
    ClockAheadError,
    StoreUnavailableError,
    LedgerPausedError,
)


@dataclass(slots=True)
class _Request:
    """Runs that one script publishes; kept until it is answered."""

    runs: list[Run]
    batch: Batch


class Records:
    """Runs in the ledger, for one tenure. For one thread.

    The methods raise what the ledger's do, and ``ClockAheadError`` if a run is later than Redis's
    clock allows. Before they raise, the state of each run is set.
    """

    def __init__(
        self, ledger: Ledger, watch: ClockWatch, look: Callable[[], LedgerLook | None]
    ) -> None:
        """Start with nothing under way, on a ledger that was just loaded.

        Args:
            ledger: Adopted for this tenure.
            watch: Is told Redis's time with each answer.
            look: As that of the tenure.
        """
        self._ledger = ledger
        self._watch = watch
        self._latest_look = look
        self._look: LedgerLook | None = None
        self._looks_wrong = False
        self._unanswered: list[_Request] = []
        self._unanswered_claims: list[Run] = []
        self._ended: list[Run] = []  # claimed, and to be committed
        self._checked_at = time.monotonic()

    # Transactional

    def publish(self, runs: Sequence[Run], may_write: Gate) -> Steps[bool]:
        """Push the messages of runs and record them, in as few scripts as possible.

        Runs that were given up are recorded without a message.

        Args:
            runs: Of different entries.
            may_write: Asked once, right before the scripts are sent. It may wait.

        Returns:
            Whether they were sent; if not, no state was changed.

        Raises:
            StoreRefusedError: Where a right is missing, the runs are not ``is_plain`` any more.
        """
        return self._publish([_request(part) for part in _parts(runs)], may_write)

    def _publish(self, requests: list[_Request], may_write: Gate) -> Steps[bool]:
        before = sent = now_us()

        def may_send() -> bool:
            nonlocal sent
            may = may_write()
            sent = now_us()
            return may

        batches = [request.batch for request in requests]
        answers = yield from self._ledger.publishing(batches, may_send, ahead=self._watch.ahead)
        if answers is None:
            return False
        after = now_us()
        self._checked()
        errors: list[SafeLeaderError] = []
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, Published):
                self._watch.compare(before, answer.now, after)
                # The reply may have been read long after it came.
                errors += self._answered(request, answer, min(max(sent, answer.now), after))
            else:
                errors.append(answer)
                self._failed(request, answer)
        _raise_most_urgent(errors)
        return True

    def _answered(
        self, request: _Request, answer: Published, at_us: int
    ) -> Iterator[SafeLeaderError]:
        missing_right = answer.missing_right(self._ledger.key)
        if missing_right is not None:
            yield missing_right
        for run, outcome in zip(request.runs, answer.outcomes, strict=True):
            state = _AFTER_PUBLICATION[outcome]
            if outcome is PublicationOutcome.REFUSED:
                run.is_plain = False
            if outcome is PublicationOutcome.REFUSED and missing_right is None:
                logger.warning(
                    "Redis refused to push the message of entry %r to %s (%s): this run is "
                    "claimed, published and committed instead",
                    run.name,
                    run.push.queue.decode(errors="replace") if run.push else "its queue",
                    answer.refusals.get(run.name, "no reason given"),
                )
            if state is not run.state:
                run.to(state)
            run.arrived_us = at_us if outcome is PublicationOutcome.PUBLISHED else 0
            if outcome is PublicationOutcome.AHEAD:
                yield ClockAheadError(run.name)

    def _failed(self, request: _Request, error: SafeLeaderError) -> None:
        if isinstance(error, StoreUnavailableError):
            _unanswered(request.runs)
        if request.runs[0].state is RunState.UNANSWERED and isinstance(error, _UNDECIDED):
            # What is left of a lost ledger may show that an earlier attempt was executed.
            self._unanswered.append(request)
            return
        for run in request.runs:
            if isinstance(error, StoreRefusedError) and error.is_missing_right:
                run.is_plain = False
            if run.state is RunState.UNANSWERED:
                # This attempt changed nothing, but an earlier one may have.
                run.to(RunState.DROPPED)
            elif isinstance(error, LedgerPausedError):
                run.to(RunState.HELD_BACK)

    # Before user code is called

    def look(self, runs: Sequence[Run]) -> list[Run]:
        """Return the scheduled runs that nothing stands in the way of; others change their state.

        Only a glance: what is published later is compared again. So that nobody is called for
        what is paused, claimed or done already.

        Raises:
            LedgerPausedError: The ledger is paused.
        """
        free: list[Run] = []
        for start in range(0, len(runs), BATCH):
            part = runs[start : start + BATCH]
            seen = self._ledger.glance([run.name for run in part])
            if seen.is_paused:
                self.check()  # the pause may be over by Redis's clock
                if paused := self.pause():
                    for run in runs[start:]:
                        run.to(RunState.HELD_BACK)
                    raise paused[0]
            free += [run for run in part if self._is_free(run, *seen.entries.get(run.name, _GONE))]
        return free

    def _is_free(self, run: Run, stands: LastRun | None, claim: Claim | None) -> bool:
        if claim is not None:
            run.to(RunState.UNSETTLED)
        elif stands != run.after:
            run.to(RunState.DROPPED)
        return run.state is RunState.SCHEDULED

    # Write-ahead

    def claim(self, runs: Sequence[Run]) -> None:
        """Claim runs of different entries, and commit along with them what has ended."""
        for start in range(0, len(runs), BATCH):
            while len(self._ended) > BATCH:
                self._write([])
            self._claim(runs[start : start + BATCH])

    def _claim(self, runs: Sequence[Run]) -> None:
        try:
            outcomes = self._write([Next(run.claim, run.after) for run in runs])
        except SafeLeaderError as exc:
            self._claim_failed(runs, exc)
            raise
        errors: list[SafeLeaderError] = []
        for run, outcome in zip(runs, outcomes, strict=True):
            run.to(_AFTER_CLAIM[outcome])
            run.entry.claim = run.claim if outcome is ClaimOutcome.CLAIMED else None
            if outcome is ClaimOutcome.AHEAD:
                errors.append(ClockAheadError(run.name))
        if ClaimOutcome.PAUSED in outcomes:
            errors += self.pause()
        _raise_most_urgent(errors)

    def _claim_failed(self, runs: Sequence[Run], error: SafeLeaderError) -> None:
        if isinstance(error, StoreUnavailableError):
            _unanswered(runs)
            self._unanswered_claims += runs
            for run in runs:
                run.entry.claim = run.claim  # a memory that is written back needs it
            return
        for run in runs:
            if run.state is RunState.UNANSWERED:
                # This attempt changed nothing, but an earlier one may have.
                run.to(RunState.DROPPED)

    def commit(self, run: Run) -> None:
        """Let the next write record a claimed run that was sent, accepted or given up."""
        run.entry.claim = None
        run.entry.set_last_run(run.record)
        self._ended.append(run)

    def settle(self, claims: Sequence[Claim]) -> list[Settlement]:
        """Find out what became of claims that somebody may have published."""
        self.flush()
        settlements = self._ledger.settle(claims)
        for each in settlements:
            if each.outcome is SettlementOutcome.DIFFERS:
                detail = f"the claim of {each.claim.entry!r} is gone"
                raise GenerationChangedError(self._ledger.key, detail)
        return settlements

    def pause(self) -> list[LedgerPausedError]:
        """Return the error of a ledger that is paused; nothing if it is not."""
        pause = self._ledger.pause
        if pause is None:
            return []
        return [LedgerPausedError(self._ledger.key, pause.number, pause.until_us, now_us())]

    def flush(self) -> None:
        """Write the commits that are left, if there are any."""
        if self._ended:
            self.check()

    def check_in(self) -> float:
        """Return the seconds until ``check()`` has to be called; 0 for now.

        What Redis lost must be noticed while there is a memory to restore it from, even if nothing
        is due for long. Usually the renewals of the lease look at the ledger each third of the ttl,
        and a check is needed only if it does not look as this leader left it.
        """
        look = self._latest_look()
        if look is not None and look is not self._look:
            self._look = look
            doubtful = self._watch.doubts(look.sent_at.wall, look.server_us)
            if self._ledger.is_as_left(look) and not doubtful:
                self._checked()
            else:
                # Asked anew, since a look may be old; and its moments are too far apart to judge.
                self._looks_wrong = True
        if self._ended or self._looks_wrong:
            return 0.0
        # The next look is due after a third of the ttl, and takes its time.
        thirds = 1 if look is None else 2
        return max(0.0, self._checked_at + thirds * self._ledger.ttl / 3 - time.monotonic())

    def check(self) -> None:
        """Write the commits that are left, and check that the ledger is as this leader left it."""
        self._write([])
        while self._ended:
            self._write([])

    def _write(self, claims: list[Next]) -> tuple[ClaimOutcome, ...]:
        """Write claims, and along with them as many commits as there is room for."""
        runs = self._ended[: 2 * BATCH - len(claims)]
        before = now_us()
        commits = [Commit(run.claim, run.record) for run in runs]
        written = self._ledger.write(commits, claims, ahead=self._watch.ahead)
        self._watch.compare(before, written.now, now_us())
        self._checked()
        del self._ended[: len(runs)]
        if CommitOutcome.DIFFERS in written.commits:
            raise GenerationChangedError(self._ledger.key, "a claim of this leader is gone")
        for run in runs:
            run.to(RunState.DONE)
        return written.claims

    def _checked(self) -> None:
        self._checked_at = time.monotonic()
        self._looks_wrong = False

    # What has no answer yet

    @property
    def is_unanswered(self) -> bool:
        """Whether there is any of these."""
        return bool(self._unanswered or self._unanswered_claims)

    @property
    def is_unanswered_push(self) -> bool:
        """Whether there is a message among these that a script has to push."""
        return any(each.push for request in self._unanswered for each in request.batch.publications)

    @property
    def unanswered(self) -> list[Run]:
        """Runs of which it is not known whether they were published or claimed."""
        published = [run for request in self._unanswered for run in request.runs]
        return [*published, *self._unanswered_claims]

    def forgo(self, is_too_late: Callable[[Run], bool]) -> list[Run]:
        """Let runs that became too late be recorded when they are repeated, without a message.

        Those whose message was queued by an earlier attempt are recorded already.

        Returns:
            The runs.
        """
        late = []
        for request in self._unanswered:
            for run in request.runs:
                if run.push is not None and is_too_late(run):
                    run.push, run.is_forgone = None, True
                    late.append(run)
            request.batch.publications = _publications(request.runs)
        return late

    def count_again(self, count_again: Callable[[Sequence[Run]], None]) -> None:
        """Let messages be made anew that may be expired by now; only one of them is ever pushed.

        Args:
            count_again: Called with the runs of each request that is to be repeated.
        """
        for request in self._unanswered:
            count_again(request.runs)
            request.batch.publications = _publications(request.runs)

    def repeat(self, still_leads: Gate) -> None:
        """Send again, with the same runs to record, what had no reply."""
        requests, self._unanswered = self._unanswered, []
        if requests and not complete(self._publish(requests, still_leads)):
            self._unanswered = requests
            return
        claims, self._unanswered_claims = self._unanswered_claims, []
        try:
            self.claim(claims)
        finally:
            # Also those that were not reached: an earlier write may have failed.
            self._unanswered_claims = [run for run in claims if run.state is RunState.UNANSWERED]

    def withdraw(self) -> set[str]:
        """Repeat nothing of what had no reply: something else has to be written first.

        It would be a later step of the ledger, which no longer shows what an earlier one did.

        Returns:
            The entries of which the ledger has to be read, to know where they stand.
        """
        doubtful = {run.name for run in self.unanswered}
        self._unanswered.clear()
        self._unanswered_claims.clear()
        return doubtful

    def resolve_unanswered(self) -> list[Run]:
        """Take for done what a lost ledger still shows to have been published; return these runs.

        Call it between the adoption of the ledger that is to be restored and its restoration.
        """
        done = []
        for request in self._unanswered:
            if self._ledger.was_executed(request.batch):
                done += request.runs
        for run in done:
            run.entry.set_last_run(run.record)
        return done

    def clear(self) -> None:
        """Drop everything under way, to start again from what the entries say."""
        self._unanswered.clear()
        self._unanswered_claims.clear()
        self._ended.clear()


def _unanswered(runs: Iterable[Run]) -> None:
    for run in runs:
        if run.state is not RunState.UNANSWERED:
            run.to(RunState.UNANSWERED)


def _request(runs: list[Run]) -> _Request:
    return _Request(runs, Batch(_publications(runs)))


def _publications(runs: Sequence[Run]) -> tuple[Publication, ...]:
    return tuple(Publication(run.claim, run.after, run.record, run.push) for run in runs)


def _parts(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Return runs in groups that one script takes, in their order."""
    part: list[Run] = []
    size = 0
    for run in runs:
        more = 0 if run.push is None else len(run.push.message)
        if part and (len(part) == BATCH or size + more > FULL_BATCH):
            yield part
            part, size = [], 0
        part.append(run)
        size += more
    if part:
        yield part


def _raise_most_urgent(errors: Sequence[SafeLeaderError]) -> None:
    for kind in _MOST_URGENT_FIRST:
        for error in errors:
            if isinstance(error, kind):
                raise error
    if errors:
        raise errors[0]
