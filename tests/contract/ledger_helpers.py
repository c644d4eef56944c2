"""What the contract tests of the ledger begin with."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import redis

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.publications import Publication, Push
from celery_safe_leader._ledger.results import Commit, Enrolment, EnrolmentOutcome, Next
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys

__all__ = ["Bench"]

SECOND = 1_000_000


@dataclass
class Bench:
    """A key on a real server, its ledger, and a clock that is moved by hand."""

    client: redis.Redis
    key: str
    time: float = 0.0
    names: LedgerKeys = field(init=False)
    start: int = field(init=False)

    def __post_init__(self) -> None:
        self.names = LedgerKeys(self.key)
        seconds, micros = self.client.time()
        self.start = seconds * SECOND + micros - 100 * SECOND
        """A hundred seconds ago by the server's clock."""

    def lease(self, role: str = "beat", /, **fields: Any) -> None:
        """Write or change the record of an election."""
        name = ElectionKeys(self.key, role).lease
        record: dict[Any, Any] = {"epoch": "e"}
        if not self.client.exists(name):
            record |= {"holder": "a", "token": 7, "resigned": 0, "renewal": "r1", "ttl": 2000}
        record |= fields
        self.client.hset(name, mapping=record)

    def ledger(self, role: str = "beat", *, adopted: bool = True, client: Any = None) -> Ledger:
        """Make a ledger whose leader is ``a`` with token 7."""
        ledger = Ledger(client or self.client, self.key, role, ttl=2, clock=lambda: self.time)
        if adopted:
            self.lease(role)
            ledger.adopt("a", 7)
        return ledger

    def run(self, second: int = 0, count: int = 0) -> LastRun:
        """A run at a second after the start."""
        return LastRun(self.start + second * SECOND, count, self.start, "f")

    def claim(self, entry: str = "e", second: int = 1, token: int = 7) -> Claim:
        """A claim of the moment at a second after the start."""
        moment = self.start + second * SECOND
        occurrence = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.key} {entry!r} {moment}"))
        return Claim(entry, occurrence, moment, moment, "f", token)

    def next(self, entry: str = "e", second: int = 1, after: int = 0, count: int = 0) -> Next:
        """A claim to make, after a run."""
        return Next(self.claim(entry, second), self.run(after, count))

    def commit(self, entry: str = "e", second: int = 1, count: int = 1) -> Commit:
        """A commit of a claim."""
        return Commit(self.claim(entry, second), self.run(second, count))

    def queue(self, name: str = "queue") -> bytes:
        """Key of a list that is a queue."""
        return f"{name} of {self.key}".encode()

    def publication(
        self,
        entry: str = "e",
        second: int = 1,
        *,
        after: int = 0,
        count: int = 0,
        queue: bytes | None = None,
        expiries: tuple[tuple[bytes, int], ...] = (),
    ) -> Publication:
        """A run to publish, after a run; its message names entry and second."""
        push = Push(queue or self.queue(), f"{entry} {second}".encode(), expiries)
        run = self.run(second, count + 1)
        return Publication(self.claim(entry, second), self.run(after, count), run, push)

    def sentinel(self) -> bytes:
        """The sentinel of both hashes."""
        found = {self.client.hget(n, SENTINEL) for n in (self.names.runs, self.names.pending)}
        (raw,) = found
        assert isinstance(raw, bytes)
        return raw

    def pause(self, number: int, until_us: int) -> None:
        """Write a pause into the ledger, with any number and end."""
        _, generation, step, state, owner = self.sentinel().decode().split(" ", 4)
        state = "/".join((*state.split("/")[:2], str(number), str(until_us)))
        for name in (self.names.runs, self.names.pending):
            self.client.hset(name, SENTINEL, f"2 {generation} {step} {state} {owner}")

    def enrol(self, ledger: Ledger, *entries: str) -> None:
        """Let entries begin at the start."""
        outcomes = ledger.enrol([Enrolment(entry, None, self.run()) for entry in entries])
        assert set(outcomes) == {EnrolmentOutcome.WRITTEN}

    def state(self) -> tuple[Any, ...]:
        """All that the ledger holds in Redis."""
        return tuple(self.client.hgetall(name) for name in (self.names.runs, self.names.pending))
