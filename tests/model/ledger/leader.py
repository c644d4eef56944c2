"""A leader of the write-ahead way: load, settle, then claim, publish, commit.

Leaders are generators that stop before each step, so that a test decides who does the next one.
A step is one request to the ledger, one publication, or a resignation. All that such a generator
remembers is in its variables: it does not stop within a ``for``, whose iterator nobody could see.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator
from functools import partial
from typing import Any

from tests.model.ledger.clients import FaultyClient
from tests.model.ledger.releases import Release, older
from tests.model.ledger.world import GRID, BrokerError, World

__all__ = ["Leader", "Program"]

Program = Generator[str, None, None]


class Leader:
    """A leader that follows the steps of the release before, and runs that release's code."""

    release: Release
    lead = 0
    """Ticks before its moment at which a run may be claimed."""

    def __init__(self, world: World, name: str, token: int) -> None:
        self.release = self.get_release()
        self.world = world
        self.name = name
        self.token = token
        self.lead = self.get_lead()
        self.client = FaultyClient(world.client, world.late)
        client: Any = self.client
        self.ledger = self.release.ledger.Ledger(
            client, world.key, "beat", ttl=10, clock=lambda: 0.0
        )
        self.runs: dict[str, Any] = {}
        self.pending: dict[str, Any] = {}
        self.uncertain: dict[str, Any] = {}
        """Pending claims of which somebody, perhaps this leader, may have published a message."""
        self.waiting: dict[str, Any] = {}
        """Pending claims whose moment has not come."""
        self.fresh: set[str] = set()
        """Entries whose pending claim this leader made, and has not tried to publish."""
        self.takes_back = False
        """Takes back at its next write what waits and is fresh."""
        self.leaves = False
        """Resigns as soon as nothing is to be written any more."""
        self.commits: dict[str, Any] = {}
        self.loaded = False
        self.restoring = False
        self.may_resign = True
        """Whether it resigns when nothing is due; else it looks at the ledger now and then."""
        self.must_restore = False
        """The ledger was lost, and this leader's memory is all that is left of it."""
        self.publish_fault = ""
        self.at = ""
        """The step that comes next; empty at the end."""
        self._program = self._tenure()
        self._forward()

    def get_release(self) -> Release:
        """Return the release whose code it runs."""
        return older()

    def get_lead(self) -> int:
        """Return how many ticks before their moment it claims runs."""
        return self.world.lead

    def step(self) -> bool:
        """Do the next step. Returns whether another one follows."""
        self.world.trace.append(f"{self.name}: {self.at}")
        assert len(self.world.trace) < self.world.most_steps, "this history never ends"
        goes_on = self._forward()
        self.world.work()
        return goes_on

    def kill(self) -> None:
        """End it where it stands."""
        self.world.trace.append(f"{self.name} killed before {self.at}")
        self._program.close()
        self.at = ""

    def _forward(self) -> bool:
        self.at = next(self._program, "")
        return bool(self.at)

    # The order of steps

    def _tenure(self) -> Program:
        errors = self.release.errors
        try:
            yield from self._load()
            while True:
                try:
                    yield from self._begin_round()
                    yield from self._settle()
                    if not (yield from self._dispatch()):
                        break
                except errors.GenerationChangedError:
                    yield from self._restore()
            # A ledger that was lost since the last write is written back before the memory goes.
            yield "resign"
            self.world.resign(self)
        except errors.FencedError:
            return

    def _begin_round(self) -> Program:
        """Do what comes before all else."""
        yield from ()

    def _repeat(self, label: str, ask: Any) -> Program:
        """Repeat a request with an unknown outcome, the same until it is answered."""
        errors = self.release.errors
        while True:
            yield label
            try:
                self.answer = ask()
                if self.loaded and not self.restoring:
                    self.must_restore = False
                return
            except self.release.store_errors.StoreUnavailableError:
                label = label if label.endswith(" again") else f"{label} again"
            except errors.FencedError as fenced:
                if errors.FenceReason[fenced.reason] is not errors.FenceReason.VACANT:
                    raise
                yield "renew"
                # A sleeper finds that its record is another's by now.
                if self.world.leaders[-1] is not self:
                    raise
                self.world.grant(self)

    def _load(self) -> Program:
        while not self.loaded:
            try:
                yield from self._repeat("adopt", partial(self.ledger.adopt, self.name, self.token))
                self._adopted()
                yield from self._repeat("load", self.ledger.load)
                snapshot = self.answer
                self.runs, self.pending = dict(snapshot.runs), dict(snapshot.pending)
                self.commits = {
                    entry: self.release.results.Commit(claim, snapshot.runs[entry])
                    for entry, claim in snapshot.done.items()
                }
                self.uncertain = dict(self.pending)
                yield from self._enrol([e for e in self.world.periods if e not in self.runs])
                self.loaded = True
            except self.release.errors.GenerationChangedError:
                continue

    def _adopted(self) -> None:
        """Note in which condition the ledger was found."""

    def _enrol(self, entries: list[str]) -> Program:
        start = self.release.last_run(self.world.base, 0, self.world.base, "f")
        new = [self.release.results.Enrolment(entry, None, start) for entry in entries]
        if new:
            yield from self._repeat("enrol", partial(self.ledger.enrol, new))
            self.runs.update((item.entry, item.run) for item in new)

    def _settle(self) -> Program:
        outcomes = self.release.results.SettlementOutcome
        while self.uncertain:
            claims = list(self.uncertain.values())[: self.world.batch]
            yield from self._repeat("settle", partial(self.ledger.settle, claims))
            settlements = deque(self.answer)
            while settlements:
                settlement = settlements.popleft()
                claim = settlement.claim
                if settlement.outcome is outcomes.DIFFERS:
                    raise self._changed(f"{claim.entry} is not pending")
                if settlement.outcome is outcomes.ACCEPTED:
                    self._done(claim)
                elif self._is_early(claim):
                    self.waiting[claim.entry] = self.uncertain.pop(claim.entry)
                else:
                    yield from self._publish(claim)

    def _changed(self, detail: str) -> Exception:
        error: Exception = self.release.errors.GenerationChangedError(self.world.key, detail)
        return error

    def _dispatch(self) -> Generator[str, None, bool]:
        """Commit the last batch, and claim the next; publish that whose moment has come."""
        results = self.release.results
        if self.takes_back or self.leaves:
            self._take_back()
        claims = [] if self.leaves else self._to_claim()
        nothing_due = not claims and not self.commits and (self.leaves or not self.waiting)
        is_last = nothing_due and (self.may_resign or self.leaves)
        commits = dict(itertools.islice(self.commits.items(), self.world.batch))
        nexts = [results.Next(claim, self.runs[claim.entry]) for claim in claims]
        self.pending.update((claim.entry, claim) for claim in claims)
        yield from self._repeat("write", partial(self.ledger.write, [*commits.values()], nexts))
        written = self.answer
        claims = self._claimed(claims, written.claims)
        if results.CommitOutcome.DIFFERS in written.commits:
            raise self._changed(f"{written.commits}")
        for entry in commits:
            del self.commits[entry]
        self.waiting.update((claim.entry, claim) for claim in claims)
        self.fresh.update(claim.entry for claim in claims)
        if not self.leaves and self.waiting and not claims and not commits:
            yield from self._wait()
        in_order = deque(sorted(self.waiting.values(), key=lambda claim: claim.moment))
        while in_order:
            claim = in_order.popleft()
            if not self.leaves and not self._is_early(claim):
                del self.waiting[claim.entry]
                yield from self._publish(claim)
        return not is_last

    def _claimed(self, claims: list[Any], outcomes: Any) -> list[Any]:
        """Return the claims that may be published."""
        if set(outcomes) - {self.release.results.ClaimOutcome.CLAIMED}:
            raise self._changed(f"{outcomes}")
        return claims

    def _is_early(self, claim: Any) -> bool:
        early: bool = claim.moment > self.world.moment(self.world.now)
        return early

    def _wait(self) -> Program:
        """Let time pass until the first moment comes."""
        first = min(claim.moment for claim in self.waiting.values())
        while first > self.world.moment(self.world.now):
            yield "wait"
            self.world.now += first > self.world.moment(self.world.now)

    def _take_back(self) -> None:
        self.takes_back = False
        for entry in [entry for entry in self.waiting if entry in self.fresh]:
            claim = self.waiting.pop(entry)
            self.commits[entry] = self.release.results.Commit(claim, self.runs[entry])
            self.fresh.discard(entry)
            del self.pending[entry]

    def _publish(self, claim: Any) -> Program:
        self.fresh.discard(claim.entry)
        yield f"publish {claim.entry}"
        fault, self.publish_fault = self.publish_fault, ""
        try:
            self.world.publish(claim, fault)
        except BrokerError:
            self.uncertain[claim.entry] = claim
        else:
            self._done(claim)

    def _next_run(self, claim: Any) -> Any:
        count = self.runs[claim.entry].count + 1
        return self.release.last_run(claim.moment, count, self.world.base, "f")

    def _done(self, claim: Any) -> None:
        entry = claim.entry
        self.uncertain.pop(entry, None)
        del self.pending[entry]
        self.runs[entry] = run = self._next_run(claim)
        self.commits[entry] = self.release.results.Commit(claim, run)

    def _restore(self) -> Program:
        """Write the memory back. What was published but not committed is part of it."""
        self.restoring = True
        while self.restoring:
            try:
                adopt = partial(self.ledger.adopt, self.name, self.token, restoring=True)
                yield from self._repeat("adopt to restore", adopt)
                self._resolve()
                yield from self._repeat(
                    "merge", partial(self.ledger.merge, self.runs, self.pending)
                )
                merged = self.answer
                yield from self._repeat("seal", self.ledger.seal)
                for item in merged:
                    assert item.run is not None
                    self.runs[item.entry] = item.run
                    self.pending.pop(item.entry, None)
                    if item.claim is not None:
                        self.pending[item.entry] = item.claim
                self.commits, self.waiting, self.fresh = {}, {}, set()
                # Nobody knows how far a claim came whose write was refused: ask before publishing.
                self.uncertain = dict(self.pending)
                self.restoring = self.must_restore = False
            except self.release.errors.GenerationChangedError:
                continue

    def _resolve(self) -> None:
        """Take for done what the adopted ledger still shows."""

    def _to_claim(self) -> list[Any]:
        return self._due(self.lead)

    def _due(self, lead: int = 0) -> list[Any]:
        claims: list[Any] = []
        # What the next write does not commit is still pending in the ledger.
        pending = {*self.pending, *itertools.islice(self.commits, self.world.batch, None)}
        for entry, period in self.world.periods.items():
            if entry in pending or len(claims) == self.world.batch:
                continue
            after = (self.runs[entry].moment - self.world.base) // GRID
            first = (after // period + 1) * period
            if first > min(self.world.now + lead, self.world.until):
                continue
            tick = max(first, self.world.now // period * period if self.world.coalesce else 0)
            claims.append(self._claim(entry, self.world.moment(first), self.world.moment(tick)))
        return claims

    def _claim(self, entry: str, first: int, moment: int) -> Any:
        occurrence = self.world.occurrence(entry, moment)
        return self.release.codec.Claim(entry, occurrence, moment, first, "f", self.token)
