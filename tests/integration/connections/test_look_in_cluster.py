"""A beat's renewals in a cluster, whose nodes refuse requests for several keys now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from celery_safe_leader._core.messages import Answer, Campaign, Observe, Renew, ReplyStatus, Request
from celery_safe_leader._core.options import Options
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._store.connection.client import make_client, make_store_clients
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader._store.sync import RedisStore
from celery_safe_leader.errors import StoreError
from tests.contract.requests import NOW
from tests.support.processes.waiting import wait_until
from tests.support.servers.cluster import Cluster
from tests.support.servers.kinds import all_kinds

LIMIT = 10.0


@pytest.fixture(scope="module", params=all_kinds())
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param) as cluster:
        yield cluster


class Leading:
    """A beat that leads in a cluster, and its ledger."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.keys = ElectionKeys(key, BEAT)
        url = cluster.url(self.keys.lease)
        self._store = RedisStore(
            *make_store_clients(make_client, url, {}, Options(3 * LIMIT), self.keys), self.keys
        )
        seen = self.ask(Observe(NOW, "n", 10.0, 0)).record
        campaign = Campaign(NOW, seen.version, "a", "n", 10.0, 10.0, 0)
        self.token = self.ask(campaign).record.token
        client = make_client(url, key=self.keys.lease, connect_timeout=LIMIT, read_timeout=LIMIT)
        self.ledger = Ledger(client, key, BEAT, ttl=10.0, clock=time.monotonic)

    def ask(self, request: Request) -> Answer:
        reply = self._store.execute(request)
        assert isinstance(reply, Answer)
        return reply

    def renew(self) -> Answer:
        return self.ask(Renew(NOW, "a", self.token, "n", 10.0, 10.0))

    def renews(self) -> bool:
        """Renew; a node that does not have the slot any more may say so once."""
        try:
            return self.renew().status is ReplyStatus.ACCEPTED
        except StoreError:
            return False

    def close(self) -> None:
        self._store.close()


@pytest.fixture
def leading(cluster: Cluster, key: str) -> Iterator[Leading]:
    leading = Leading(cluster, key)
    yield leading
    leading.close()


def test_one_request_renews_and_looks(leading: Leading) -> None:
    leading.ledger.adopt("a", leading.token)
    answer = leading.renew()
    assert answer.status is ReplyStatus.ACCEPTED
    assert answer.look is not None
    assert leading.ledger.is_as_left(answer.look)


@pytest.mark.parametrize("ledger", ["adopted", "lost"])
def test_a_migrating_slot_costs_no_renewal(cluster: Cluster, leading: Leading, ledger: str) -> None:
    """Where only some of the keys are, or some do not exist, a node refuses three at once."""
    if ledger == "adopted":
        leading.ledger.adopt("a", leading.token)
    lease, runs = leading.keys.lease, leading.ledger.names.runs
    source = cluster.master_of(lease)
    target, slot = cluster.other_master(source), cluster.slot_of(lease)
    looks = []

    def note() -> None:
        answer = leading.renew()
        assert answer.status is ReplyStatus.ACCEPTED
        looks.append(answer.look is not None)

    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
    note()
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
    note()
    for keys in ([lease], [runs], source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)):
        source.ask("MIGRATE", target.host, target.port, "", 0, 5000, "KEYS", *keys)
        note()
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)
    wait_until(lambda: cluster.master_of(lease) is target, 30, "the slot's new node")
    assert not all(looks), "nothing was refused"
    wait_until(leading.renews, 30, "a renewal at the new node")
    note()
    assert looks[-1]
