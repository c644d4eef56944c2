"""Failovers and losses that trap an election, on real servers: no instant with two leaders."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from celery_safe_leader._core.messages import Reply, ReplyStatus, Request, Resign
from celery_safe_leader._core.options import Options
from celery_safe_leader._runtime.thread import ThreadRunner
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.sync import RedisStore
from celery_safe_leader.errors import StoreUnavailableError
from celery_safe_leader.leader import SafeLeader
from tests.support.candidates.fleet import Candidate, Fleet
from tests.support.candidates.tenures import overlaps
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds

TTL, WAIT = 1.5, 0.3
StartServer = Callable[..., Server]
StartProxy = Callable[[Server], Proxy]


@pytest.mark.parametrize("kind", installed_kinds())
def test_from_a_to_b_and_back_to_a_while_a_standby_sleeps(
    kind: str, start_server: StartServer, start_proxy: StartProxy, children: Children, key: str
):
    a = start_server(kind)
    b = start_server(kind, replica_of=a)
    links = [start_proxy(a), start_proxy(a)]
    fleet = Fleet(
        [
            Candidate(children, link.url(), key, ttl=TTL, wait=WAIT, name=f"candidate {place}")
            for place, link in enumerate(links)
        ]
    )
    leader = fleet.leader()
    (standby,) = fleet.standbys()
    time.sleep(WAIT)
    wait_until(lambda: b.client().exists(f"{{leader:{key}}}:lease"), 30)
    # The standby has seen what A holds now, and A is never written again: nobody reaches it.
    a.pause()
    standby.pause()
    b.promote()
    for link in links:
        link.point_at(b.port)
    time.sleep(2 * TTL)
    assert leader.leads, "B has the record, and the leader goes on there"
    b.kill()
    a.resume()
    a.follow(("127.0.0.1", 1))  # never synchronized
    a.promote()
    for link in links:
        link.point_at(a.port)
    standby.resume()
    time.sleep(1.5 * TTL)
    fleet.check()
    assert leader.leads
    assert len(fleet.tenures) == 1, fleet.tenures


def test_a_standby_with_a_short_ttl_outwaits_a_leader_with_a_long_one(
    start_server: StartServer, start_proxy: StartProxy, children: Children, key: str
):
    server = start_server()
    link, short = start_proxy(server), 0.6
    leader = Candidate(children, link.url(), key, ttl=4.0, wait=0.2, name="long")
    Fleet([leader]).leader()
    standby = Candidate(children, server.url, key, ttl=short, wait=0.1, name="short")
    fleet = Fleet([leader, standby])
    time.sleep(2 * short)
    assert leader.leads, "it saw the leader's ttl"
    # The leader renews no more and knows of nothing; what is left of it is its lease.
    link.black_hole()
    server.client().flushall()
    newcomer = Candidate(children, server.url, key, ttl=short, wait=0.1, name="newcomer")
    fleet = Fleet([leader, standby, newcomer])
    successor = fleet.leader(8, other_than=leader)
    assert successor is not leader
    time.sleep(1)
    fleet.check()
    assert successor.tenures[0].start > leader.tenures[0].end
    assert leader.named("demoted")[0]["reason"] == "expired"


class Switched:
    """The store of a leader whose resignation reaches A, and again B; both real."""

    def __init__(self, a: RedisStore, b: RedisStore) -> None:
        self._a, self._b = a, b
        self.resigned_at_a = threading.Event()
        self.failed_over = threading.Event()
        self.answers: list[Reply] = []

    def execute(self, request: Request) -> Reply:
        if not isinstance(request, Resign):
            return self._a.execute(request)
        if not self.resigned_at_a.is_set():
            self._a.execute(request)
            self.resigned_at_a.set()
            raise StoreUnavailableError("test", "the reply was lost")
        assert self.failed_over.wait(20)
        self.answers.append(self._b.execute(request))
        return self.answers[-1]

    def interrupt(self, request: object = None) -> None:
        self._a.interrupt()

    def close(self) -> None:
        self._a.close()
        self._b.close()


def store_at(server: Server, key: str, limit: float) -> RedisStore:
    clients = [make_client(server.url, connect_timeout=limit, read_timeout=limit) for _ in range(2)]
    return RedisStore(clients[0], clients[1], ElectionKeys(key))


def test_a_resignation_repeated_at_an_inherited_record_lets_nobody_in(
    start_server: StartServer, start_proxy: StartProxy, children: Children, key: str
):
    ttl = 4.0
    a = start_server()
    replication = start_proxy(a)
    b = start_server(replica_of=replication.address)
    store = Switched(store_at(a, key, 10), store_at(b, key, 10))
    former = SafeLeader(ThreadRunner(Options(ttl, WAIT), key, store))
    former.elect()
    former.wait_until_leader(30)
    wait_until(lambda: b.client().hget(f"{{leader:{key}}}:lease", "holder"), 30)
    replication.black_hole()

    link = start_proxy(a)
    successor = Candidate(children, link.url(), key, ttl=ttl, wait=WAIT, name="successor")
    successor.wait_ready()
    time.sleep(WAIT)
    stopping = threading.Thread(target=former.stop, kwargs={"timeout": 20})
    told = time.monotonic()
    stopping.start()
    assert store.resigned_at_a.wait(5)
    wait_until(lambda: successor.leads, 30, "the resignation at A is good, and wakes the next")
    assert successor.tenures[0].start - told < ttl, "it waited for the lease"
    # A dies; B has the record of the former leader, whose lease would still last.
    link.black_hole()
    a.kill()
    b.promote()
    third = Candidate(children, b.url, key, ttl=ttl, wait=WAIT, name="third")
    third.wait_ready()
    store.failed_over.set()
    stopping.join(10)
    assert [answer.status for answer in store.answers] == [ReplyStatus.REJECTED]  # type: ignore[union-attr]
    assert b.client().hget(f"{{leader:{key}}}:lease", "resigned") == "0"
    wait_until(lambda: third.leads, 2 * ttl)
    time.sleep(0.3)
    assert overlaps([*successor.tenures, *third.tenures]) == []
    assert third.tenures[0].start - successor.tenures[0].end < ttl
    former.shutdown()
