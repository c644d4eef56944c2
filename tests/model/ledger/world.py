"""A world for the ledger: leaders that die, sleep and wake, workers, and a real server.

The server holds the ledger and the queue, so that runs can be published either way. What is
virtual is the clock that says what is due, and who is elected; every write, message and acceptance
is real.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import redis

from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._store.keys import ElectionKeys
from tests.model.ledger.clients import Late

__all__ = ["GRID", "BrokerError", "Message", "World"]

GRID = 1_000  # microseconds between two ticks of the virtual clock
_AGO = 3_600_000_000  # the virtual clock begins an hour ago: nothing is ahead of the server
_NAMESPACE = uuid.UUID("5f0cde9c-6c0b-4b25-8f8e-3f6c9b3c1d11")
_run_numbers = itertools.count()


@dataclass(frozen=True)
class Message:
    """A publication in the queue."""

    entry: str
    occurrence: str
    first: int
    moment: int
    nonce: str

    def encode(self) -> bytes:
        """Return it as it is in the queue."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_once(self) -> bool:
        """Whether it was published by the script that recorded its run."""
        return self.nonce.startswith("once-")


class BrokerError(Exception):
    """A publication failed; the message may be out."""


class Candidate(Protocol):
    """One who may lead; see ``leader.py``."""

    name: str
    token: int
    at: str

    def step(self) -> bool:
        """Do the next step."""


@dataclass
class World:
    """One key on a real server, entries with their periods, and what was executed."""

    client: Any  # redis.Redis, whose commands have no usable annotations
    periods: dict[str, int]
    """Entry -> ticks between two of its moments."""
    batch: int = 4
    coalesce: bool = False
    lead: int = 0
    """Ticks before its moment at which the older release may claim a run; it is published at the
    moment."""
    until: int = 2**31
    """Tick after which nothing is claimed or published, so that a history ends."""
    key: str = field(default_factory=lambda: f"world-{next(_run_numbers)}-{uuid.uuid4().hex[:8]}")
    base: int = 0
    """Moment of tick 0 in microseconds since 1970; an hour ago by the server's clock if 0."""
    now: int = 0
    """Ticks of the virtual clock."""
    workers: str = "random"
    """When workers take a message: ``eager`` at once, ``fifo`` and ``lifo`` at the end, ``mixed``
    every other one at once; ``random`` whenever the test says so."""
    all_ask: bool = False
    """Workers of the older release ask whichever way a message was published."""
    taken: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    """Occurrence -> messages that workers took from the queue, whether they ran or not."""
    early: list[str] = field(default_factory=list)
    """What was published before its moment."""
    executed: dict[str, list[Message]] = field(default_factory=lambda: defaultdict(list))
    late: Late = field(default_factory=list)
    """What is executed after its sender gave up."""
    has_failed: bool = False
    """Whether a request went wrong already, where one may."""
    leaders: list[Any] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)
    most_steps: int = 2_000
    """A history that takes more never ends."""

    def __post_init__(self) -> None:
        if not self.base:
            seconds, micros = self.client.time()
            self.base = seconds * 1_000_000 + micros - _AGO
        self.tokens = itertools.count(1)
        self.nonces = itertools.count(1)
        self.lease = ElectionKeys(self.key, "beat").lease
        self.queue = f"queue of {self.key}".encode()
        self.no_queue = f"not a list of {self.key}".encode()
        """A key that refuses messages."""
        self.client.set(self.no_queue, "x")

    def moment(self, tick: int) -> int:
        """Moment of a tick."""
        return self.base + tick * GRID

    def occurrence(self, entry: str, moment: int) -> str:
        """Id of an occurrence."""
        return str(uuid.uuid5(_NAMESPACE, f"{self.key} {entry} {moment}"))

    def fresh(self) -> str:
        """Return a string that nothing else contains: what stays the same whichever it is."""
        return f"<{next(self.nonces)}>"

    # The election

    def elect(self, kind: Callable[[World, str, int], Any]) -> Any:
        """Give the lease to a new leader, whatever the last one thinks."""
        leader = kind(self, f"leader-{len(self.leaders) + 1}", next(self.tokens))
        self.grant(leader)
        self.leaders.append(leader)
        return leader

    def grant(self, leader: Candidate) -> None:
        """Write the lease record."""
        fields: dict[Any, Any] = {
            "holder": leader.name,
            "token": leader.token,
            "renewal": f"{leader.name}-{self.fresh()}",
            "resigned": "0",
            "ttl": "10000",
            "epoch": "e",
        }
        self.client.hset(self.lease, mapping=fields)

    def resign(self, leader: Candidate) -> None:
        """Mark the lease record as resigned, if it is still this leader's."""
        if self.client.hmget(self.lease, "holder", "token") == [
            leader.name.encode(),
            str(leader.token).encode(),
        ]:
            self.client.hset(self.lease, "resigned", "1")

    # Broker and workers

    def message(self, claim: Any, *, once: bool = False) -> bytes:
        """Return a new publication of a claim, as it goes out now."""
        if claim.moment > self.moment(self.now):
            self.early.append(f"{claim} was published at tick {self.now}")
        nonce = f"{'once-' if once else ''}{self.fresh()}"
        return Message(claim.entry, claim.occurrence, claim.first, claim.moment, nonce).encode()

    def publish(self, claim: Any, fault: str = "") -> None:
        """Publish a run that is claimed."""
        message = self.message(claim)
        if fault == "late":
            self.late.append(("LPUSH", self.queue, message))
        elif fault != "request":
            self.client.lpush(self.queue, message)
        if fault:
            raise BrokerError

    def arrive_late(self, index: int) -> None:
        """Execute a request whose sender gave up."""
        self.trace.append("a late request arrives")
        # A script that the server does not know is not executed.
        with contextlib.suppress(redis.exceptions.NoScriptError):
            self.client.execute_command(*self.late.pop(index))

    def messages(self) -> list[bytes]:
        """All messages in the queue, the oldest first."""
        found: list[bytes] = self.client.lrange(self.queue, 0, -1)
        return found[::-1]

    def work(self) -> None:
        """Let the workers take what they take at once."""
        if self.workers == "eager":
            while self.client.llen(self.queue):
                self.consume(0)
        elif self.workers == "mixed" and (length := self.client.llen(self.queue)) % 2:
            self.consume(length - 1)

    def consume(self, index: int = 0) -> None:
        """Let a worker take a message, and run it if the ledger accepts it.

        Args:
            index: 0 is the oldest, -1 the newest.
        """
        raw = self.client.lindex(self.queue, -1 - index)
        self.client.lrem(self.queue, -1, raw)
        message = Message(**json.loads(raw))
        self.taken[message.occurrence].append(message)
        if message.is_once and not self.all_ask:
            self.executed[message.occurrence].append(message)
            return
        answer = accept(self.client, self.key, message.occurrence, message.nonce, window=3600)
        if answer.may_run:
            self.executed[message.occurrence].append(message)

    def finish(self, kind: Callable[[World, str, int], Any]) -> None:
        """Let somebody lead undisturbed until all is done, and the workers until all is run."""
        last = self.elect(kind)
        for leader in (last, *self.leaders):
            while leader.at:
                leader.step()
        while self.late:
            self.arrive_late(0)
        while self.client.llen(self.queue):
            self.consume(-1 if self.workers == "lifo" else 0)

    # The judge

    def faults(self, *, doubles_allowed: bool = False) -> list[str]:
        """Judge: each due moment executed once, in ranges without gap and overlap.

        What a script published while it recorded the run is in the queue once, and nothing beside
        it: that needs no worker's help.

        Args:
            doubles_allowed: What was published twice may run twice.
        """
        found = list(self.early)
        for messages in self.executed.values():
            if len(messages) > 1 and not doubles_allowed:
                found.append(f"{messages[0]} ran {len(messages)} times")
        for messages in self.taken.values():
            once = any(message.is_once for message in messages)
            if once and len(messages) > 1 and not doubles_allowed:
                found.append(f"{messages[0]} was published {len(messages)} times")
        for entry, period in self.periods.items():
            runs = [m[0] for m in self.executed.values() if m[0].entry == entry]
            covered = sorted((message.first, message.moment) for message in runs)
            expected = self.moment(period)
            for first, last in covered:
                if first != expected:
                    found.append(f"{entry}: a range begins at {first}, not at {expected}")
                expected = last + period * GRID
            last_due = self.now // period * period
            if expected != self.moment(last_due + period):
                found.append(f"{entry}: ends before {expected}, not after {self.moment(last_due)}")
        return found
