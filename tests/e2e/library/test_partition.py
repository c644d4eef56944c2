"""A partition with a master on both sides: the leader and the old master alone, the rest apart.

Links are cut, nothing is killed. The rest makes a replica its master, as Sentinels would. After
5 ttl the old master becomes a replica of the new one.

With ``wait_replicas`` at a majority of all copies (of a master and two replicas: 1) nobody leads
twice. Without it two lead at once, which is why the docs warn of it: that is shown here, too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeAlias

import pytest

from tests.support.candidates.fleet import Candidate, Fleet
from tests.support.candidates.tenures import overlaps
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server, installed_kinds

pytestmark = pytest.mark.quiet

Plays: TypeAlias = "Callable[[int], Future[tuple[Partition, list[float]]]]"
SHELLS = ("blocking", "asyncio", "blocking")


class Partition(CleansUp):
    """A master with two replicas over links, and three candidates over links of their own."""

    def __init__(self, kind: str, *, ttl: float, wait_replicas: int) -> None:
        self.ttl, self.wait = ttl, ttl / 5
        self._kind = kind
        self._wait_replicas = wait_replicas

    def __enter__(self) -> Partition:
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            self.master = self._server(None)
            self.replication = [self._link(), self._link()]
            self.replicas = [self._server(link.address) for link in self.replication]
            children = Children()
            cleanup.callback(children.close)
            self.links: dict[str, Proxy] = {}
            self.fleet = Fleet([self._candidate(children, shell) for shell in SHELLS])
            self._cleanup = cleanup.pop_all()
        return self

    def _server(self, master: tuple[str, int] | None) -> Server:
        server = Server(self._kind, replica_of=master)
        self._cleanup.callback(server.close)
        return server.start()

    def _link(self) -> Proxy:
        link = Proxy(self.master.port)
        self._cleanup.callback(link.close)
        return link

    def _candidate(self, children: Children, shell: str) -> Candidate:
        link, name = self._link(), f"{shell} {len(self.links)}"
        self.links[name] = link
        more = {"wait_replicas": self._wait_replicas}
        ttl, wait = self.ttl, self.wait
        return Candidate(
            children, link.url(), "split", ttl=ttl, wait=wait, shell=shell, name=name, more=more
        )

    def cut(self, leader: Candidate) -> float:
        """Cut the leader and the master off; return when the rest has a whole new master."""
        for link in self.replication:
            link.black_hole()
        for name, link in self.links.items():
            if name != leader.name:
                link.black_hole()
        new, other = self.replicas
        new.promote()
        other.follow(new)
        other.wait_ready()
        for name, link in self.links.items():
            if name != leader.name:
                link.point_at(new.port)
                link.heal()
        return time.monotonic()

    def heal(self) -> float:
        """Make the old master a replica, and lead all to the new one; return when that is done."""
        new = self.replicas[0]
        self.master.follow(new)
        self.master.wait_ready()
        for link in self.links.values():
            link.point_at(new.port)
        return time.monotonic()


def play(kind: str, *, ttl: float, wait_replicas: int) -> tuple[Partition, list[float]]:
    """Play it, and return how long two led at once."""
    with Partition(kind, ttl=ttl, wait_replicas=wait_replicas) as partition:
        fleet = partition.fleet
        leader = fleet.leader(15)
        time.sleep(random.uniform(0.3, 0.3 + ttl / 3))
        began = time.monotonic()
        whole = partition.cut(leader)
        takeover = 1.01 * ttl + partition.wait
        fleet.led_after(whole + takeover + 1.0)
        other = fleet.leader(other_than=leader)
        time.sleep(max(0.0, began + 5 * ttl - time.monotonic()))
        assert other.leads
        healed = partition.heal()
        time.sleep(takeover)
        fleet.led_after(healed)
        both = [min(a.end, b.end) - max(a.start, b.start) for a, b in overlaps(fleet.tenures)]
        if wait_replicas:
            fleet.check()
            assert leader.named("demoted")[0]["reason"] == "expired"
        return partition, both


@pytest.fixture(scope="module")
def plays() -> Iterator[Plays]:
    """Play both short forms at once, as soon as one is wanted: most of their time is waiting."""
    kinds = installed_kinds()
    with ThreadPoolExecutor(2, thread_name_prefix="partition") as pool:
        both = [
            pool.submit(play, kinds[place % len(kinds)], ttl=1.0, wait_replicas=place)
            for place in (0, 1)
        ]
        yield lambda wait_replicas: both[wait_replicas]


def test_no_two_lead_while_replicas_are_asked(
    plays: Plays, measured: Callable[[str], None]
) -> None:
    partition, both = plays(1).result()
    measured(f"partition, wait_replicas=1: {len(partition.fleet.tenures)} tenures, no overlap")
    assert both == []


def test_two_lead_at_once_while_no_replica_is_asked(
    plays: Plays, measured: Callable[[str], None]
) -> None:
    """What the docs warn of. A failure here means that the warning may go."""
    _, both = plays(0).result()
    measured(f"partition, wait_replicas=0: two led for {sum(both):.1f} s")
    assert sum(both) > 1.0


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", installed_kinds())
def test_no_two_lead_in_many_partitions(kind: str, measured: Callable[[str], None]) -> None:
    tenures = 0
    for _ in range(6):
        partition, both = play(kind, ttl=2.0, wait_replicas=1)
        tenures += len(partition.fleet.tenures)
        assert both == []
    measured(f"6 partitions, wait_replicas=1, {kind}: {tenures} tenures, no overlap")
