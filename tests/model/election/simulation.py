"""A fleet that runs by itself, on a network with a will of its own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

from celery_safe_leader._core.messages import Await, Request, Resign, Woken
from celery_safe_leader._core.state import State
from tests.model.election.fleet import LOST, Fleet, Node, Outcome
from tests.model.election.sites import Site, Sites

__all__ = ["LINKS", "Simulation"]

LINKS = ("good", "good", "slow", "lossy", "wild", "cut")
"""Kinds of connections. ``wild`` delays, loses and repeats at will."""
_SLOWEST = 0.995
_LOSSES = {"lossy": 0.3, "wild": 0.25, "cut": 1.0}


class Simulation(Fleet):
    """Runs candidates as the shells do. All chance comes from one seeded source."""

    def __init__(self, sites: Sites, seed: int | str) -> None:
        super().__init__(sites, f"seed={seed}")
        self.random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._awaiting: dict[str, tuple[Node, Request]] = {}
        self._under_way_until = 0.0

    def join(self, ttl: float, **options: Any) -> Node:
        """Start a candidate on a machine whose clocks run as they like, within 0.5 %."""
        rates = tuple(self.random.choice((0.995, 1.0, 1.005)) for _ in range(3))
        options.setdefault("rates", rates)
        node = self.candidate(ttl, **options)
        self._wake(node)
        return node

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass with everything that falls into it; tell whether ``until`` came true."""
        end = self.truth.now + seconds
        while self._events and self._events[0][0] <= end:
            at, _, happen = heapq.heappop(self._events)
            self.truth.now = max(self.truth.now, at)
            happen()
            self.judge.leaders(self.nodes)
            if until():
                return True
        self.truth.now = end
        self.judge.leaders(self.nodes)
        return until()

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.truth.now + seconds, next(self._order), happen))

    # A candidate's loop

    def _wake(self, node: Node) -> None:
        node.alarm += 1
        if node.paused or node.gone:
            return
        request = self.poll(node)
        if request is not None:
            self._send(node, request)
            return
        pause = node.election.pause(node.clock.now())
        if pause is not None:
            alarm = node.alarm
            self._after(pause / _SLOWEST + 1e-6, lambda: self._ring(node, alarm))

    def _ring(self, node: Node, alarm: int) -> None:
        if alarm == node.alarm:
            self._wake(node)

    def _give_up(self, node: Node, request: Request) -> None:
        if node.waits_for is request:
            self._arrive(node, request, LOST)

    def _arrive(self, node: Node, request: Request, outcome: Outcome) -> None:
        if node.gone:
            return
        if node.paused:
            node.inbox.append((request, outcome))
            return
        self._awaiting.pop(node.name, None) if isinstance(request, Await) else None
        self.deliver(node, request, outcome)
        self._wake(node)

    # The network

    def _send(self, node: Node, request: Request) -> None:
        if isinstance(request, Await):
            self._awaiting[node.name] = (node, request)
            pause = request.timeout / _SLOWEST
            self._after(pause, lambda: self._arrive(node, request, Woken(resigned=False)))
            return
        options, site = node.election.options, self.sites.master
        self._after(options.request_timeout, lambda: self._give_up(node, request))
        if not self._lost(node):
            self._reach(node, request, site, self._delay(node))
        if node.link == "wild" and self.random.random() < 0.3:
            self._reach(node, request, site, self.random.uniform(0, 3 * options.ttl))

    def _reach(self, node: Node, request: Request, site: Site, delay: float) -> None:
        self._under_way_until = max(self._under_way_until, self.truth.now + delay)
        self._after(delay, lambda: self._executes(node, request, site))

    def _executes(self, node: Node, request: Request, site: Site) -> None:
        outcome = self.execute(request, site)
        if isinstance(request, Resign):
            self._wake_awaiting(site)
        if not self._lost(node):
            self._after(self._delay(node), lambda: self._arrive(node, request, outcome))

    def _wake_awaiting(self, site: Site) -> None:
        if site is not self.sites.master:
            return
        for node, request in list(self._awaiting.values()):
            if site.client.lpop(self.keys.wake) is None:
                return
            del self._awaiting[node.name]
            self._arrive(node, request, Woken(resigned=True))

    def _lost(self, node: Node) -> bool:
        return self.random.random() < _LOSSES.get(node.link, 0.0)

    def _delay(self, node: Node) -> float:
        ttl = node.election.options.ttl
        if node.link == "slow":
            return self.random.uniform(0.0, 0.3 * ttl)
        if node.link == "wild":
            return self.random.choice((0.0, self.random.uniform(0, 1.5 * ttl)))
        return self.random.uniform(0.0001, 0.002)

    # What can happen to a candidate

    def pause(self, node: Node) -> None:
        """Stop its process; replies wait for it."""
        self.note(f"{node.name} is paused")
        node.paused = True

    def resume(self, node: Node) -> None:
        """Let it go on."""
        if not node.paused:
            return
        self.note(f"{node.name} goes on")
        node.clock.wake_up()
        node.paused = False
        inbox, node.inbox = node.inbox, []
        for request, outcome in inbox:
            self._arrive(node, request, outcome)
        self._wake(node)

    def suspend(self, node: Node) -> None:
        """Suspend its machine, with everybody on it."""
        node.clock.suspend()
        for other in self.nodes:
            if other.clock is node.clock:
                self.pause(other)

    def step_wall(self, node: Node, seconds: float) -> None:
        """Set the wall clock of its machine."""
        self.note(f"wall clock of {node.name} steps by {seconds:+.0f} s")
        node.clock.step_wall(seconds)
        self._wake(node)

    def kill(self, node: Node) -> None:
        """End it. What it sent may still arrive."""
        self.note(f"{node.name} is killed")
        node.gone = True
        self.judge.gone(node)
        self.nodes.remove(node)
        self._awaiting.pop(node.name, None)

    def fork(self, node: Node) -> Node:
        """Start a child on the same machine: a new candidate, of which the shells make one."""
        # A process that stands still does not fork; a child would run on a machine that sleeps.
        self.resume(node)
        self.note(f"{node.name} forks")
        options = node.election.options
        child = self.candidate(options.ttl, wait=options.wait, clock=node.clock)
        self._wake(child)
        return child

    def stop_or_start(self, node: Node) -> None:
        """Stop it, or start it again."""
        if node.election.state in (State.IDLE, State.RESIGNING):
            self.note(f"{node.name} is started again")
            node.election.start(node.clock.now())
        else:
            self.stop(node)
            self._awaiting.pop(node.name, None)
        self._wake(node)

    # Health

    def heal(self) -> None:
        """End all faults: everybody goes on, takes part, and has a good connection."""
        self.note("all is well from now on")
        for node in list(self.nodes):
            node.link = "good"
            self.resume(node)
            if node.election.state in (State.IDLE, State.RESIGNING):
                self.stop_or_start(node)

    def must_elect(self) -> None:
        """Heal, and see that somebody leads in time.

        Besides ``1.01 T + wait``: a request that is lost at this moment is given up after a third
        of the ttl, and the pause before the next one is no longer. And what was sent before, or is
        a late copy, may still change the record when it comes.
        """
        self.heal()
        late = max(0.0, self._under_way_until - self.truth.now)
        longest = self.longest_ttl
        wait = max(node.election.options.wait for node in self.nodes)
        bound = (1.01 * longest + wait + 2 / 3 * longest) / _SLOWEST + 0.1 + late
        if not self.run(bound, until=lambda: any(node.leads for node in self.nodes)):
            tail = "\n  ".join(self.judge.trace[-80:])
            raise AssertionError(
                f"nobody leads {bound:.1f} s after the last fault\n{self.judge.seed}\n  {tail}"
            )
