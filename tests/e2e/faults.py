"""The faults of servers and links: the same for candidates and for beats.

Each takes the stage on which it is played, and returns the moment since which all is well again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Set
from typing import Protocol, TypeVar

from tests.support.network.proxy import Proxy
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server

__all__ = [
    "TAKEOVER",
    "TTL",
    "WAIT",
    "ServersAndLinks",
    "black_hole_for_all",
    "flushall",
    "keys_deleted",
    "long_outage",
    "restarted_empty",
    "slow_for_all",
    "stale_replica",
    "steady",
    "twelve_flushalls",
    "waiting_it_out",
]

TTL = 2.0
WAIT = 0.4
TAKEOVER = 1.01 * TTL + WAIT
"""Seconds within which a silent leader is followed by another."""


class Played(Protocol):
    """A stage: the server of the election, and the links to it."""

    server: Server

    @property
    def links(self) -> list[Proxy]:
        """Those of all candidates or beats."""


AnyStage = TypeVar("AnyStage", bound=Played)
Fault = Callable[[AnyStage], float]


class ServersAndLinks(CleansUp):
    """Starts servers and links, which end with the stage."""

    kind: str

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


def steady(stage: Played) -> float:
    """Nothing happens."""
    began = time.monotonic()
    time.sleep(2 * TTL)
    return began


def black_hole_for_all(stage: Played) -> float:
    """All links swallow everything for 3 ttl."""
    for link in stage.links:
        link.black_hole()
    time.sleep(3 * TTL)
    for link in stage.links:
        link.heal()
    return time.monotonic()


def slow_for_all(stage: Played) -> float:
    """All links are slow for 3 ttl."""
    for link in stage.links:
        link.delay(0.3 * TTL)
    time.sleep(3 * TTL)
    for link in stage.links:
        link.heal()
    return time.monotonic()


def flushall(stage: Played) -> float:
    """Redis loses everything."""
    stage.server.client().flushall()
    return time.monotonic()


def twelve_flushalls(stage: Played) -> float:
    """Redis loses everything again and again, at random moments."""
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    moments, client = random.Random(seed), stage.server.client()
    for _ in range(12):
        time.sleep(moments.uniform(0, 0.5 * TTL))
        client.flushall()
    return time.monotonic()


def keys_deleted(among_them: Set[str]) -> Fault[Played]:
    """Somebody deletes all keys, which were these at least."""

    def play(stage: Played) -> float:
        client = stage.server.client()
        keys = client.keys("*")
        assert among_them <= set(keys)
        client.delete(*keys)
        return time.monotonic()

    return play


def restarted_empty(stage: Played) -> float:
    """Redis is restarted without its data."""
    stage.server.restart_empty()
    return time.monotonic()


def long_outage(stage: Played) -> float:
    """Redis is gone for longer than any lease, and comes back empty."""
    stage.server.kill()
    time.sleep(4 * TTL)
    stage.server.restart_empty()
    return time.monotonic()


class Replicated(Played, Protocol):
    """A stage to which servers and links can be added."""

    def add_server(self, replica_of: tuple[str, int] | None = None) -> Server:
        """Start another server."""

    def add_link(self, server: Server) -> Proxy:
        """Put a link in front of a server."""


def stale_replica(stage: Replicated) -> Callable[[], float]:
    """Add a replica that replicates no longer; return what promotes it after the master's death."""
    replication = stage.add_link(stage.server)
    replica = stage.add_server(replica_of=replication.address)
    replication.black_hole()

    def fail_over() -> float:
        stage.server.kill()
        replica.promote()
        for link in stage.links:
            link.point_at(replica.port)
        stage.server = replica
        return time.monotonic()

    return fail_over


def waiting_it_out(fault: Fault[AnyStage]) -> Fault[AnyStage]:
    """Play a fault, and give what it does to the election time to come out."""

    def play(stage: AnyStage) -> float:
        healed = fault(stage)
        time.sleep(1.5 * TTL)
        return healed

    return play
