"""A world for the ledger: leaders that die, sleep and wake, a broker, workers, and a real server.

Leaders are generators that stop before each step, so that a test decides who does the next one.
A step is one call of the ledger, one publication, or a resignation. What is virtual is the clock
that says what is due, the broker, and who is elected; every write and every acceptance is real.
"""

from __future__ import annotations

import itertools
import uuid
from collections import Counter, defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import redis

from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.errors import (
    FencedError,
    FenceReason,
    GenerationChangedError,
)
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.results import (
    ClaimOutcome,
    Commit,
    CommitOutcome,
    Enrolment,
    Next,
    SettlementOutcome,
)
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreUnavailableError

__all__ = ["Leader", "Message", "World"]

_GRID = 1_000  # microseconds between two ticks of the virtual clock
_AGO = 3_600_000_000  # the virtual clock begins an hour ago: nothing is ahead of the server
_NAMESPACE = uuid.UUID("5f0cde9c-6c0b-4b25-8f8e-3f6c9b3c1d11")
_run_numbers = itertools.count()

Program = Generator[str, None, None]


@dataclass(frozen=True)
class Message:
    """A publication in the broker."""

    claim: Claim
    nonce: str


class BrokerError(Exception):
    """A publication failed; the message may be out."""


class FaultyClient:
    """A client whose requests or replies are lost where a test says so."""

    def __init__(self, client: redis.Redis) -> None:
        self._client: Any = client
        self.fault = ""
        """Of the next script: ``request`` or ``reply`` is lost."""
        self.requests = 0

    def execute_command(self, *args: Any) -> Any:
        self.requests += 1
        fault, self.fault = self.fault, ""
        if fault == "request":
            raise redis.TimeoutError("request lost")
        result = self._client.execute_command(*args)
        if fault == "reply":
            raise redis.TimeoutError("reply lost")
        return result

    def hscan(self, *args: Any, **options: Any) -> Any:
        self.requests += 1
        return self._client.hscan(*args, **options)


@dataclass
class World:
    """One key on a real server, entries with their periods, and what was executed."""

    client: redis.Redis
    periods: dict[str, int]
    """Entry -> ticks between two of its moments."""
    batch: int = 4
    coalesce: bool = False
    lead: int = 0
    """Ticks before its moment at which a run may be claimed; it is published at the moment."""
    until: int = 2**31
    """Tick after which nothing is claimed, so that a history ends."""
    key: str = field(default_factory=lambda: f"world-{next(_run_numbers)}-{uuid.uuid4().hex[:8]}")
    now: int = 0
    """Ticks of the virtual clock."""
    queue: list[Message] = field(default_factory=list)
    published: Counter[str] = field(default_factory=Counter)
    early: list[str] = field(default_factory=list)
    """What was published before its moment."""
    executed: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    leaders: list[Leader] = field(default_factory=list)
    workers: str = "random"
    """When workers take a message: ``eager`` at once, ``fifo`` and ``lifo`` at the end, ``mixed``
    every other one at once; ``random`` whenever the test says so."""
    trace: list[str] = field(default_factory=list)
    most_steps: int = 2_000
    """A history that takes more never ends."""

    def __post_init__(self) -> None:
        seconds, micros = self.client.time()
        self.base = seconds * 1_000_000 + micros - _AGO
        self.tokens = itertools.count(1)
        self.nonces = itertools.count(1)
        self.lease = ElectionKeys(self.key, "beat").lease

    def moment(self, tick: int) -> int:
        """Moment of a tick."""
        return self.base + tick * _GRID

    def elect(self) -> Leader:
        """Give the lease to a new leader, whatever the last one thinks."""
        leader = Leader(self, f"leader-{len(self.leaders) + 1}", next(self.tokens))
        self.grant(leader)
        self.leaders.append(leader)
        return leader

    def grant(self, leader: Leader) -> None:
        """Write the lease record."""
        fields: dict[Any, Any] = {
            "holder": leader.name,
            "token": leader.token,
            "renewal": f"{leader.name}-{next(self.nonces)}",
            "resigned": "0",
            "ttl": "10000",
            "epoch": "e",
        }
        self.client.hset(self.lease, mapping=fields)

    def resign(self, leader: Leader) -> None:
        """Mark the lease record as resigned, if it is still this leader's."""
        if self.client.hmget(self.lease, "holder", "token") == [
            leader.name.encode(),
            str(leader.token).encode(),
        ]:
            self.client.hset(self.lease, "resigned", "1")

    def publish(self, claim: Claim, fault: str = "") -> None:
        """Take a message, as a broker does."""
        if fault == "request":
            raise BrokerError
        if claim.moment > self.moment(self.now):
            self.early.append(f"{claim} was published at tick {self.now}")
        message = Message(claim, f"n{next(self.nonces)}")
        self.published[claim.occurrence] += 1
        self.queue.append(message)
        if self.workers == "eager" or (self.workers == "mixed" and len(self.queue) % 2):
            self.consume(len(self.queue) - 1)
        if fault == "reply":
            raise BrokerError

    def consume(self, index: int = 0) -> None:
        """Let a worker take a message, and run it if the ledger accepts it."""
        message = self.queue.pop(index)
        occurrence = message.claim.occurrence
        answer = accept(self.client, self.key, occurrence, message.nonce, window=3600)
        if answer.may_run:
            self.executed[occurrence].append(message)

    def finish(self) -> None:
        """Let somebody lead undisturbed until all is done, and the workers until all is run."""
        last = self.elect()
        for leader in (last, *self.leaders):
            while leader.at:
                leader.step()
        while self.queue:
            self.consume(-1 if self.workers == "lifo" else 0)

    def faults(self, doubles_of: int = 0) -> list[str]:
        """Judge: each due moment executed once, in ranges without gap and overlap.

        Args:
            doubles_of: 0 forbids doubles; 2 allows them for what was published twice.
        """
        found = list(self.early)
        for occurrence, messages in self.executed.items():
            twice_allowed = doubles_of and self.published[occurrence] >= doubles_of
            if len(messages) > 1 and not twice_allowed:
                found.append(f"{messages[0].claim} ran {len(messages)} times")
        for entry, period in self.periods.items():
            runs = [m[0].claim for m in self.executed.values() if m[0].claim.entry == entry]
            covered = sorted((claim.first, claim.moment) for claim in runs)
            expected = self.moment(period)
            for first, last in covered:
                if first != expected:
                    found.append(f"{entry}: a range begins at {first}, not at {expected}")
                expected = last + period * _GRID
            last_due = self.now // period * period
            if expected != self.moment(last_due + period):
                found.append(f"{entry}: ends before {expected}, not after {self.moment(last_due)}")
        return found


class Leader:
    """A leader that follows the order of steps: load, settle, then claim, publish, commit."""

    def __init__(self, world: World, name: str, token: int) -> None:
        self.world = world
        self.name = name
        self.token = token
        self.client = FaultyClient(world.client)
        client: Any = self.client
        self.ledger = Ledger(client, world.key, "beat", ttl=10, clock=lambda: 0.0)
        self.runs: dict[str, LastRun] = {}
        self.pending: dict[str, Claim] = {}
        self.uncertain: dict[str, Claim] = {}
        """Pending claims of which somebody, perhaps this leader, may have published a message."""
        self.waiting: dict[str, Claim] = {}
        """Pending claims whose moment has not come."""
        self.fresh: set[str] = set()
        """Entries whose pending claim this leader made, and has not tried to publish."""
        self.takes_back = False
        """Takes back at its next write what waits and is fresh."""
        self.leaves = False
        """Resigns as soon as nothing is to be written any more."""
        self.commits: dict[str, Commit] = {}
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

    def step(self) -> bool:
        """Do the next step. Returns whether another one follows."""
        self.world.trace.append(f"{self.name}: {self.at}")
        assert len(self.world.trace) < self.world.most_steps, "this history never ends"
        return self._forward()

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
        try:
            yield from self._load()
            while True:
                try:
                    yield from self._settle()
                    if not (yield from self._dispatch()):
                        break
                except GenerationChangedError:
                    yield from self._restore()
            # A ledger that was lost since the last write is written back before the memory goes.
            yield "resign"
            self.world.resign(self)
        except FencedError:
            return

    def _repeat(self, label: str, ask: Any) -> Program:
        """Repeat a request with an unknown outcome, the same until it is answered."""
        while True:
            yield label
            try:
                self.answer = ask()
                if self.loaded and not self.restoring:
                    self.must_restore = False
                return
            except StoreUnavailableError:
                label = f"{label} again"
            except FencedError as fenced:
                if FenceReason[fenced.reason] is not FenceReason.VACANT:
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
                yield from self._repeat("load", self.ledger.load)
                snapshot = self.answer
                self.runs, self.pending = dict(snapshot.runs), dict(snapshot.pending)
                self.commits = {
                    entry: Commit(claim, snapshot.runs[entry])
                    for entry, claim in snapshot.done.items()
                }
                self.uncertain = dict(self.pending)
                start = LastRun(self.world.base, 0, self.world.base, "f")
                new = [Enrolment(e, None, start) for e in self.world.periods if e not in self.runs]
                if new:
                    yield from self._repeat("enrol", partial(self.ledger.enrol, new))
                    self.runs.update((item.entry, item.run) for item in new)
                self.loaded = True
            except GenerationChangedError:
                continue

    def _settle(self) -> Program:
        while self.uncertain:
            claims = list(self.uncertain.values())[: self.world.batch]
            yield from self._repeat("settle", partial(self.ledger.settle, claims))
            for settlement in self.answer:
                claim = settlement.claim
                if settlement.outcome is SettlementOutcome.DIFFERS:
                    raise GenerationChangedError(self.world.key, f"{claim.entry} is not pending")
                if settlement.outcome is SettlementOutcome.ACCEPTED:
                    self._done(claim)
                elif self._is_early(claim):
                    self.waiting[claim.entry] = self.uncertain.pop(claim.entry)
                else:
                    yield from self._publish(claim)

    def _dispatch(self) -> Generator[str, None, bool]:
        """Commit the last batch, and claim the next; publish that whose moment has come."""
        if self.takes_back or self.leaves:
            self._take_back()
        claims = [] if self.leaves else self._due()
        nothing_due = not claims and not self.commits and (self.leaves or not self.waiting)
        is_last = nothing_due and (self.may_resign or self.leaves)
        commits = dict(itertools.islice(self.commits.items(), self.world.batch))
        nexts = [Next(claim, self.runs[claim.entry]) for claim in claims]
        self.pending.update((claim.entry, claim) for claim in claims)
        yield from self._repeat("write", partial(self.ledger.write, [*commits.values()], nexts))
        written = self.answer
        refused = set(written.claims) - {ClaimOutcome.CLAIMED}
        if refused or CommitOutcome.DIFFERS in written.commits:
            raise GenerationChangedError(self.world.key, f"{refused} {written.commits}")
        for entry in commits:
            del self.commits[entry]
        self.waiting.update((claim.entry, claim) for claim in claims)
        self.fresh.update(claim.entry for claim in claims)
        if not self.leaves and self.waiting and not claims and not commits:
            yield from self._wait()
        for claim in sorted(self.waiting.values(), key=lambda claim: claim.moment):
            if not self.leaves and not self._is_early(claim):
                del self.waiting[claim.entry]
                yield from self._publish(claim)
        return not is_last

    def _is_early(self, claim: Claim) -> bool:
        return claim.moment > self.world.moment(self.world.now)

    def _wait(self) -> Program:
        """Let time pass until the first moment comes."""
        first = min(claim.moment for claim in self.waiting.values())
        while first > self.world.moment(self.world.now):
            yield "wait"
            self.world.now += first > self.world.moment(self.world.now)

    def _take_back(self) -> None:
        self.takes_back = False
        for entry in [entry for entry in self.waiting if entry in self.fresh]:
            self.commits[entry] = Commit(self.waiting.pop(entry), self.runs[entry])
            self.fresh.discard(entry)
            del self.pending[entry]

    def _publish(self, claim: Claim) -> Program:
        self.fresh.discard(claim.entry)
        yield f"publish {claim.entry}"
        fault, self.publish_fault = self.publish_fault, ""
        try:
            self.world.publish(claim, fault)
        except BrokerError:
            self.uncertain[claim.entry] = claim
        else:
            self._done(claim)

    def _done(self, claim: Claim) -> None:
        entry = claim.entry
        self.uncertain.pop(entry, None)
        del self.pending[entry]
        run = LastRun(claim.moment, self.runs[entry].count + 1, self.world.base, "f")
        self.runs[entry] = run
        self.commits[entry] = Commit(claim, run)

    def _restore(self) -> Program:
        """Write the memory back. What was published but not committed is part of it."""
        self.restoring = True
        while self.restoring:
            try:
                yield from self._repeat(
                    "adopt to restore",
                    partial(self.ledger.adopt, self.name, self.token, restoring=True),
                )
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
            except GenerationChangedError:
                continue

    def _due(self) -> list[Claim]:
        claims: list[Claim] = []
        # What the next write does not commit is still pending in the ledger.
        pending = {*self.pending, *itertools.islice(self.commits, self.world.batch, None)}
        for entry, period in self.world.periods.items():
            if entry in pending or len(claims) == self.world.batch:
                continue
            after = (self.runs[entry].moment - self.world.base) // _GRID
            first = (after // period + 1) * period
            if first > min(self.world.now + self.world.lead, self.world.until):
                continue
            tick = max(first, self.world.now // period * period if self.world.coalesce else 0)
            claims.append(self._claim(entry, self.world.moment(first), self.world.moment(tick)))
        return claims

    def _claim(self, entry: str, first: int, moment: int) -> Claim:
        occurrence = str(uuid.uuid5(_NAMESPACE, f"{self.world.key} {entry} {moment}"))
        return Claim(entry, occurrence, moment, first, "f", self.token)
