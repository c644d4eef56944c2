"""Candidates with virtual clocks against real servers, moved by hand."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

from celery_safe_leader._core.election import Election
from celery_safe_leader._core.messages import (
    Answer,
    Await,
    Campaign,
    Reply,
    ReplyStatus,
    Request,
    Resign,
    Woken,
)
from celery_safe_leader._core.options import Options
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreError, StoreUnavailableError
from tests.model.election.clocks import MachineClock, TrueTime
from tests.model.election.judge import Judge
from tests.model.election.sites import Site, Sites

__all__ = ["LOST", "Fleet", "Node", "Outcome"]

Outcome = Reply | StoreError
LOST = StoreUnavailableError("model", "lost on the way")
_numbers = itertools.count(1)


class Node:
    """One candidate and the clock of its machine."""

    def __init__(self, name: str, options: Options, clock: MachineClock) -> None:
        self.name = name
        self.clock = clock
        self.election = Election(options, name, f"seed-{name}-{next(_numbers)}")
        self.longest_shown = options.ttl
        """Seconds: the longest ttl in anything that was ever delivered to it."""
        self.shown_before = 0.0
        """The same when it was elected last: what it saw later it could not have waited for."""
        self.elected_at = 0.0
        self.paused = False
        self.gone = False
        self.inbox: list[tuple[Request, Outcome]] = []
        self.link = "good"
        self.alarm = 0
        self.waits_for: Request | None = None

    @property
    def leads(self) -> bool:
        """Whether it believes so now."""
        return not self.gone and self.election.is_leader(self.clock.now())

    def __str__(self) -> str:
        lease = self.election.lease
        left = "" if lease is None else f", {lease.remaining(self.clock.now()):.3f} s left"
        return f"{self.name} ({self.election.state.value}, ttl {self.election.options.ttl}{left})"


class Fleet:
    """All candidates of one election. Every step is checked by the judge."""

    def __init__(self, sites: Sites, seed: str = "") -> None:
        sites.begin()
        self.sites = sites
        self.truth = TrueTime()
        self.judge = Judge(seed=seed)
        self.keys = ElectionKeys(f"model-{next(_numbers)}")
        self._stores = {site.name: site.store(self.keys) for site in sites.all}
        self.nodes: list[Node] = []
        self.longest_ttl = 0.0
        """Seconds: of all that ever took part; records of the dead carry it on."""
        self._born = itertools.count(1)

    # Time

    def advance(self, seconds: float) -> None:
        """Let true time pass; nobody does anything."""
        self.truth.now += seconds
        self.judge.leaders(self.nodes)

    def note(self, text: str) -> None:
        """Write a line of the trace."""
        self.judge.trace.append(f"{self.truth.now:10.4f}  {text}")

    def until_due(self, node: Node) -> None:
        """Let time pass until a candidate wants to do something."""
        while node.election.pause(node.clock.now()):
            self.advance((node.election.pause(node.clock.now()) or 0.0) + 1e-6)

    # Candidates

    def candidate(
        self,
        ttl: float = 10.0,
        *,
        wait: float | None = None,
        rates: tuple[float, float, float] = (1.0, 1.0, 1.0),
        clock: MachineClock | None = None,
        origin: float | None = None,
    ) -> Node:
        """Start a candidate, on a machine of its own if no clock is given."""
        number = next(self._born)
        own = MachineClock(self.truth, rates, 1000.0 * number if origin is None else origin)
        node = Node(f"c{number}", Options(ttl, wait), clock or own)
        self.nodes.append(node)
        self.longest_ttl = max(self.longest_ttl, ttl)
        node.election.start(node.clock.now())
        self.note(f"{node.name} starts: ttl {ttl}, rates {node.clock.rates}")
        return node

    def leader(self, ttl: float = 10.0, **options: Any) -> Node:
        """Start a candidate and let it win an election that has no leader."""
        node = self.candidate(ttl, **options)
        for _ in range(50):
            request = self.step(node)
            if isinstance(request, Await):
                self.advance(request.timeout * 1.01)
            if node.leads:
                return node
        raise AssertionError("\n".join(["nobody was elected", *self.judge.trace]))

    def stop(self, node: Node) -> None:
        """Stop a candidate."""
        self.note(f"{node.name} is stopped")
        node.election.stop(node.clock.now())
        self._settle(node)

    # One request: poll, execute (as often as you like), deliver

    def poll(self, node: Node) -> Request | None:
        """Ask a candidate what it sends now."""
        request = node.election.poll(node.clock.now())
        if request is not None:
            node.waits_for = request
        self._settle(node)
        return request

    def execute(self, request: Request, site: Site | None = None) -> Outcome:
        """Run a request on a server, the present master if none is named."""
        site = site or self.sites.master
        if isinstance(request, Await):
            return Woken(resigned=False)
        began_ms = time.time() * 1000
        outcome: Outcome
        try:
            outcome = self._stores[site.name].execute(request)
        except StoreError as exc:
            outcome = exc
        self.note(f"  {site.name}: {_short(request)} -> {_short(outcome)}")
        if isinstance(request, Campaign) and isinstance(outcome, Answer):
            if outcome.status is ReplyStatus.ACCEPTED and not request.keep:
                self.judge.executed(outcome.record.token, began_ms)
        return outcome

    def deliver(self, node: Node, request: Request, outcome: Outcome) -> None:
        """Give a candidate the outcome of its request."""
        led, before = node.leads, node.election.lease
        if isinstance(outcome, StoreError):
            node.election.failed(request, outcome, node.clock.now())
        else:
            if isinstance(outcome, Answer):
                node.longest_shown = max(node.longest_shown, outcome.record.ttl)
            node.election.receive(request, outcome, node.clock.now())
        if node.leads and not led:
            node.elected_at, node.shown_before = self.truth.now, node.longest_shown
        if node.waits_for is request:
            node.waits_for = None
        if not isinstance(request, Await):
            self.note(f"{node} has {_short(outcome)} to {type(request).__name__}")
        self._settle(node)
        if node.election.lease is not before:
            self.judge.leased(node, request)
        self.judge.leaders(self.nodes)

    def step(self, node: Node) -> Request | None:
        """Poll, execute and deliver at once."""
        request = self.poll(node)
        if request is not None:
            self.deliver(node, request, self.execute(request))
        return request

    def steps(self, node: Node, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Let one candidate do what it wants for a while; all others stand still."""
        end = self.truth.now + seconds
        while self.truth.now < end and not until():
            request = self.step(node)
            pause = request.timeout if isinstance(request, Await) else 0.0
            if request is None:
                pause = node.election.pause(node.clock.now()) or 0.001
            self.advance(min(max(pause * 1.006, 0.001), end - self.truth.now))

    def _settle(self, node: Node) -> None:
        self.judge.events(node, node.election.events())

    # Servers

    def flush(self) -> None:
        """FLUSHALL."""
        self.note(f"FLUSHALL on {self.sites.master.name}")
        self.judge.losses += 1
        self.sites.master.client.flushall()

    def delete(self) -> None:
        """Remove the record alone."""
        self.note("the record is deleted")
        self.judge.losses += 1
        self.sites.master.client.delete(self.keys.lease)

    def copy(self) -> bytes | None:
        """Copy the record, as a replica has it from now on."""
        return self.sites.master.dump(self.keys)

    def replicate(self, to: Site) -> None:
        """Bring another server up to date by real replication, once."""
        self.note(f"{to.name} replicates {self.sites.master.name}")
        self.sites.replicate(to)

    def fail_over(self, to: Site, *, keep: bool = False, copied: bytes | None = None) -> None:
        """Promote another server.

        Args:
            to: Which.
            keep: It holds what it held, else ``copied``.
            copied: What it got from the old master, ``None`` if nothing.
        """
        latest = self.copy()
        self.sites.fail_over(to)
        if not keep:
            to.restore(self.keys, copied)
        survives = to.dump(self.keys) == latest
        self.judge.losses += not survives
        self.note(f"failover to {to.name}, record {'up to date' if survives else 'old or lost'}")


def _short(thing: object) -> str:
    if isinstance(thing, Answer):
        record = thing.record
        who = record.holder or "vacancy"
        return f"{thing.status.value} {who}/{record.token}" + "/resigned" * record.resigned
    if isinstance(thing, Campaign):
        return f"{thing.candidate_id} campaigns" + " to restore" * thing.keep
    if isinstance(thing, Resign):
        return f"{thing.candidate_id} resigns"
    if isinstance(thing, StoreError):
        return str(thing)[:60]
    return str(getattr(thing, "candidate_id", "")) + type(thing).__name__.lower()
