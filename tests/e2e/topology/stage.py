"""Where the failovers are played: servers that know each other, and three candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from celery_safe_leader._store.keys import ElectionKeys
from tests.e2e.faults import TAKEOVER, TTL, WAIT
from tests.support.candidates.fleet import Candidate, Fleet
from tests.support.processes import Children
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server
from tests.support.servers.cluster import Cluster
from tests.support.servers.sentinels import SentinelGroup

__all__ = ["LEASE", "TAKEOVER", "TTL", "WAIT", "Outcome", "Scene", "TopologyStage", "perform"]

KEY = "table"
LEASE = ElectionKeys(KEY).lease
SHELLS = ("blocking", "asyncio", "blocking")


@dataclass(frozen=True)
class Scene:
    """One line of the table."""

    name: str
    topology: str
    """``sentinel``, ``slow sentinel`` (at its own pace) or ``cluster``."""
    play: Callable[[TopologyStage], float]
    """Makes the fault, and returns the moment since which a master serves the election again."""
    wait_replicas: int = 0
    keeps_leader: bool = False
    """Whether the same tenure goes on: no demotion, the same token."""

    def __str__(self) -> str:
        return f"{self.topology}: {self.name}"


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    led_after: float
    """Seconds from the moment that ``play`` returned to somebody leading."""
    tenures: int
    measured: dict[str, float]


@dataclass
class TopologyStage(CleansUp):
    """Servers and candidates of one line."""

    kind: str
    topology: str
    wait_replicas: int = 0
    shells: Sequence[str] = SHELLS
    measured: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> TopologyStage:
        with ExitStack() as cleanup:
            password = "a-password"  # always: it goes another way to each of them
            if self.topology != "cluster":
                self.group = cleanup.enter_context(
                    SentinelGroup(
                        self.kind,
                        password=password,
                        sentinel_password="another",
                        hasty=self.topology == "sentinel",
                    )
                )
                self._url, options = self.group.url, self.group.options
            else:
                self.cluster = cleanup.enter_context(Cluster(self.kind, password=password))
                self._url, options = self.cluster.url(LEASE), {}
            self._more: dict[str, Any] = {"options": options, "wait_replicas": self.wait_replicas}
            self._children = Children()
            cleanup.callback(self._children.close)
            self._started = 0
            self.fleet = Fleet([self._candidate() for _ in self.shells])
            self._cleanup = cleanup.pop_all()
        return self

    def _candidate(self) -> Candidate:
        shell = self.shells[self._started % len(self.shells)]
        self._started += 1
        return Candidate(
            self._children,
            self._url,
            KEY,
            ttl=TTL,
            wait=WAIT,
            shell=shell,
            name=f"{shell} {self._started}",
            more=self._more,
        )

    @property
    def master(self) -> Server:
        """The server that has the record."""
        return self.cluster.master_of(LEASE) if self.topology == "cluster" else self.group.master

    def join(self) -> Candidate:
        """Start another candidate."""
        newcomer = self._candidate()
        newcomer.wait_ready()
        self.fleet.candidates.append(newcomer)
        return newcomer


def perform(scene: Scene, kind: str) -> Outcome:
    """Play a line on servers of one kind, and check what must hold in each."""
    with TopologyStage(kind, scene.topology, scene.wait_replicas) as stage:
        first = stage.fleet.leader(15)
        healed = scene.play(stage)
        after = stage.fleet.led_after(healed)
        # Not only for a moment: whatever the fault led to has come out by then.
        time.sleep(max(0.8, healed + TAKEOVER + 1.0 - time.monotonic()))
        stage.fleet.led_after(time.monotonic() - 0.5)
        stage.fleet.check()
        if scene.keeps_leader:
            assert first.leads, first.events
            assert len({tenure.token for tenure in stage.fleet.tenures}) == 1, stage.fleet.tenures
        return Outcome(after, len(stage.fleet.tenures), stage.measured)
