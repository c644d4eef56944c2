"""A leader of this release: runs go out in the script that records them, or by write-ahead."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from celery_safe_leader._ledger.publications import (
    Batch,
    Publication,
    PublicationOutcome,
    Published,
    Push,
)
from celery_safe_leader._ledger.results import ClaimOutcome, Commit, Condition
from celery_safe_leader.errors import StoreUnavailableError
from tests.model.ledger.leader import Leader, Program
from tests.model.ledger.releases import Release, present
from tests.model.ledger.world import World

__all__ = ["TransactionalLeader", "WriteAheadLeader"]


class WriteAheadLeader(Leader):
    """A leader of this release that claims every run, at its moment."""

    def __init__(self, world: World, name: str, token: int) -> None:
        self.doubtful: set[str] = set()
        """Entries that stand elsewhere in the ledger than was thought."""
        super().__init__(world, name, token)

    def get_release(self) -> Release:
        return present()

    def get_lead(self) -> int:
        return 0

    def _begin_round(self) -> Program:
        if self.doubtful:
            yield from self._read_again()

    def _claimed(self, claims: list[Any], outcomes: Any) -> list[Any]:
        again = (ClaimOutcome.PENDING, ClaimOutcome.DIFFERS)
        for claim, outcome in zip(claims, outcomes, strict=True):
            if outcome in again:
                del self.pending[claim.entry]
                self.doubtful.add(claim.entry)
            else:
                assert outcome is ClaimOutcome.CLAIMED, outcome
        return [claim for claim in claims if claim.entry not in self.doubtful]

    def _read_again(self) -> Program:
        """Learn where entries stand."""
        if self.commits:
            commits = [*self.commits.values()]
            yield from self._repeat("write", partial(self.ledger.write, commits, []))
            self.commits = {}
        yield from self._repeat("read", partial(self.ledger.read, sorted(self.doubtful)))
        for entry, (run, claim) in self.answer.items():
            self.runs.pop(entry, None)
            self.pending.pop(entry, None)
            if run is not None:
                self.runs[entry] = run
            if claim is not None and run is not None and claim.moment <= run.moment:
                self.commits[entry] = Commit(claim, run)
            elif claim is not None:
                self.pending[entry] = self.uncertain[entry] = claim
        yield from self._enrol([e for e in sorted(self.doubtful) if e not in self.runs])
        self.doubtful = set()


class TransactionalLeader(WriteAheadLeader):
    """A leader that publishes what is plain in the script that records it, and claims the rest."""

    def __init__(self, world: World, name: str, token: int) -> None:
        self.not_plain: set[str] = set()
        """Entries whose runs are claimed."""
        self.unwilling: set[str] = set()
        """Entries whose list refuses messages of a script."""
        self.must_claim = False
        """The ledger was found incomplete."""
        self.batch_size = 2
        self.commits_first = True
        """Does not try to publish a run while that before it is not committed."""
        self.unanswered: list[Batch] = []
        self.withdraws = False
        """Repeats nothing of what had no reply, as if the schedule had changed."""
        super().__init__(world, name, token)

    def _adopted(self) -> None:
        self.must_claim = self.answer.condition in (Condition.PARTIAL, Condition.TORN)

    def _begin_round(self) -> Program:
        if self.withdraws:
            self.doubtful |= {each.claim.entry for b in self.unanswered for each in b.publications}
            self.unanswered, self.withdraws = [], False
        # First of all: a later step would hide from a restoration what these have done.
        yield from self._send("publish runs again")
        yield from super()._begin_round()

    def _dispatch(self) -> Generator[str, None, bool]:
        plain = [] if self.leaves else [each for each in self._due() if self._is_plain(each)]
        if not plain:
            return (yield from super()._dispatch())
        publications = [self._publication(claim) for claim in plain]
        size = self.batch_size
        parts = [publications[i : i + size] for i in range(0, len(publications), size)]
        self.unanswered = [Batch(tuple(part)) for part in parts]
        yield from self._send("publish runs")
        return True

    def _is_plain(self, claim: Any) -> bool:
        waits = self.commits_first and claim.entry in self.commits
        return not (self.must_claim or waits or claim.entry in self.not_plain)

    def _to_claim(self) -> list[Any]:
        return [claim for claim in super()._to_claim() if not self._is_plain(claim)]

    def _publication(self, claim: Any) -> Publication:
        world = self.world
        queue = world.no_queue if claim.entry in self.unwilling else world.queue
        push = Push(queue, world.message(claim, once=True))
        return Publication(claim, self.runs[claim.entry], self._next_run(claim), push)

    def _send(self, label: str) -> Program:
        if self.unanswered:
            yield from self._repeat(label, self._request)

    def _request(self) -> None:
        """Publish all batches in one write; those that are not answered stay."""
        answers = self.ledger.publish(self.unanswered, lambda: True)
        batches, self.unanswered = self.unanswered, []
        errors = []
        for batch, answer in zip(batches, answers, strict=True):
            if isinstance(answer, Published):
                self._published(batch, answer)
            else:
                self.unanswered.append(batch)
                errors.append(answer)
        errors.sort(key=lambda error: isinstance(error, StoreUnavailableError))
        if errors:
            raise errors[0]

    def _published(self, batch: Batch, answer: Published) -> None:
        for each, outcome in zip(batch.publications, answer.outcomes, strict=True):
            entry = each.claim.entry
            match outcome:
                case PublicationOutcome.PUBLISHED:
                    self.runs[entry] = each.run
                case PublicationOutcome.CLAIMED | PublicationOutcome.DIFFERS:
                    self.doubtful.add(entry)
                case _:
                    assert outcome is PublicationOutcome.REFUSED, outcome
                    self.not_plain.add(entry)

    def _resolve(self) -> None:
        for batch in self.unanswered:
            if self.ledger.was_executed(batch):
                for each in batch.publications:
                    self.runs[each.claim.entry] = each.run

    def _restore(self) -> Program:
        yield from super()._restore()
        # Not before: what they recorded may be lost while it is being merged.
        self.unanswered = []
