"""Where the fault table is played: a server, three links, three candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from tests.e2e.faults import TAKEOVER, TTL, WAIT
from tests.support.candidates.fleet import Candidate, Fleet
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server

__all__ = ["BLOCKING", "CandidateStage", "Played", "Scenario", "perform"]

BLOCKING = ("blocking",) * 3
KEY = "table"


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    name: str
    play: Callable[[CandidateStage], float]
    """Makes the fault, ends it, and returns the moment since which all is well again."""
    keeps_leader: bool = False
    """Whether the same tenure goes on: no demotion, the same token."""
    shells: Sequence[str] = BLOCKING

    def __str__(self) -> str:
        return self.name


@dataclass
class Played:
    """What came of it."""

    led_after: float
    """Seconds from the healing to somebody leading."""
    measured: dict[str, list[float]]
    leaders: int
    """How many tenures there were."""


@dataclass
class CandidateStage(CleansUp):
    """Servers, links and candidates of one scenario."""

    kind: str
    shells: Sequence[str] = BLOCKING
    ttl: float = TTL
    wait: float = WAIT
    measured: dict[str, list[float]] = field(default_factory=dict)

    def __enter__(self) -> CandidateStage:
        with ExitStack() as cleanup:
            self._children = Children()
            cleanup.callback(self._children.close)
            self._cleanup = cleanup
            self.server = self.add_server()
            self.links = [self.add_link(self.server) for _ in self.shells]
            self.fleet = Fleet([self._candidate(place) for place in range(len(self.shells))])
            self._cleanup = cleanup.pop_all()
        return self

    def add_server(self, replica_of: tuple[str, int] | None = None) -> Server:
        """Start another server."""
        server = Server(self.kind, replica_of=replica_of)
        self._cleanup.callback(server.close)
        return server.start()

    def add_link(self, server: Server) -> Proxy:
        """Put a link in front of a server."""
        link = Proxy(server.port)
        self._cleanup.callback(link.close)
        return link

    def _candidate(self, place: int) -> Candidate:
        shell = self.shells[place]
        name = f"{shell}-{place}-{time.monotonic():.3f}"
        url = self.links[place].url()
        return Candidate(
            self._children, url, KEY, ttl=self.ttl, wait=self.wait, shell=shell, name=name
        )

    def link_of(self, candidate: Candidate) -> Proxy:
        """Return the link of a candidate."""
        return self.links[int(candidate.name.split("-")[1])]

    def replace(self, candidate: Candidate) -> None:
        """Start another in the place of one that ended."""
        newcomer = self._candidate(int(candidate.name.split("-")[1]))
        newcomer.wait_ready()
        self.fleet.candidates.append(newcomer)

    def measure(self, what: str, seconds: float) -> None:
        """Note a figure."""
        self.measured.setdefault(what, []).append(seconds)


def perform(scenario: Scenario, kind: str) -> Played:
    """Play a scenario on servers of one kind, and check what must hold in each."""
    with CandidateStage(kind, scenario.shells) as stage:
        first = stage.fleet.leader()
        time.sleep(0.5)
        healed = scenario.play(stage)
        after = stage.fleet.led_after(healed)
        # Not only for a moment: whatever the fault led to has come out by then.
        settled = healed + TAKEOVER + 1.0
        time.sleep(max(0.8, settled - time.monotonic()))
        stage.fleet.led_after(time.monotonic() - 0.5)
        stage.fleet.check()
        if scenario.keeps_leader:
            tokens = {tenure.token for tenure in stage.fleet.tenures}
            assert first.leads, first.events
            assert len(tokens) == 1, stage.fleet.tenures
            assert all(not c.named("demoted") for c in stage.fleet.candidates)
        return Played(after, stage.measured, len(stage.fleet.tenures))
