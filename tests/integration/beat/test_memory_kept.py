"""What a leader remembers outlasts the loss of the ledger, whatever else happens meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from celery_safe_leader._ledger.script_calls import ledger_script
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.beat.driven_leaders import DrivenLeaders, Leader
from tests.integration.publishing.collected import needs_batches
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server


@pytest.fixture
def proxy(quick_server: Server, start_proxy: Callable[[Server], Proxy]) -> Proxy:
    return start_proxy(quick_server)


@pytest.fixture
def stage(quick_server: Server, key: str, proxy: Proxy) -> Iterator[DrivenLeaders]:
    """Leaders whose ledger's connection goes by way of the proxy."""
    stage = DrivenLeaders(quick_server, key, ledger=proxy.url())
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture
def leader(stage: DrivenLeaders) -> Leader:
    """It has published a run of ``a``, whose schedule names an earlier one as its last."""
    leader = stage.leader(stage.app(a=stage.entry("a", -1.0)))
    wait_until(lambda: (leader.run(), stage.messages())[1])
    return leader


def lose(stage: DrivenLeaders) -> None:
    stage.client.delete(stage.names.runs, stage.names.pending)


def change(leader: Leader, what: dict[str, Any]) -> None:
    leader.app.conf.beat_schedule["a"] = {**leader.app.conf.beat_schedule["a"], **what}


def notices_the_loss(leader: Leader) -> bool:
    leader.dispatch()
    return leader.dispatcher._lost


def assert_published_once(stage: DrivenLeaders, leader: Leader) -> None:
    """Check that ``a`` goes on after its one run."""
    wait_until(lambda: (leader.run(), "a" in stage.runs())[1])
    for _ in range(5):
        leader.run()
    assert len(stage.messages()) == 1
    assert stage.runs()["a"].split()[1] == b"1"


CHANGES = [{"kwargs": {"entry": "changed"}}, {"schedule": 1800.0}]


@pytest.mark.parametrize("what", CHANGES, ids=["arguments", "schedule"])
def test_an_entry_that_changes_while_the_ledger_is_lost_goes_on_from_its_last_run(
    stage: DrivenLeaders, leader: Leader, what: dict[str, Any]
) -> None:
    lose(stage)
    wait_until(lambda: notices_the_loss(leader))
    change(leader, what)
    assert_published_once(stage, leader)


@pytest.mark.parametrize("what", CHANGES, ids=["arguments", "schedule"])
def test_so_does_one_that_changes_while_the_server_that_loses_it_is_away(
    stage: DrivenLeaders, leader: Leader, proxy: Proxy, what: dict[str, Any]
) -> None:
    proxy.black_hole()
    change(leader, what)
    leader.run()
    lose(stage)
    proxy.heal()
    assert_published_once(stage, leader)


def test_so_does_one_that_has_a_request_under_way_when_the_server_is_lost(
    stage: DrivenLeaders, proxy: Proxy
) -> None:
    """As when Redis starts again with nothing: the lease is back only with the next renewal."""
    # Due so often that the first request to get no reply is one that publishes.
    leader = stage.leader(stage.app(a=stage.entry("a", 0.0, 0.1)))
    wait_until(lambda: (leader.run(), stage.messages())[1])
    proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    lease = ElectionKeys(stage.key, "beat").lease
    record: Any = stage.client.hgetall(lease)
    lose(stage)
    stage.client.delete(lease)
    proxy.heal()
    wait_until(lambda: (leader.run(), not leader.is_unanswered())[1])
    leader.run()
    stage.client.hset(lease, mapping=record)
    wait_until(lambda: (leader.run(), len(stage.messages()) >= 3)[1])
    ranges = [sent.covers for sent in stage.messages()]
    assert {later[0] - sooner[1] for sooner, later in pairwise(ranges)} == {100_000}


@needs_batches
def test_a_leader_that_leaves_writes_back_what_it_found_lost(
    stage: DrivenLeaders, proxy: Proxy
) -> None:
    stage.client.script_load(ledger_script("publish", "sentinel", "guard", "marks").text)
    leader = stage.leader(stage.app(a=stage.entry("a", -1.0)))
    cut = proxy.cut_after_request(b"leader_publication")
    leader.run()
    assert cut.is_set()
    stage.client.delete(stage.names.runs)
    wait_until(lambda: notices_the_loss(leader))
    leader.dispatcher.finish()
    assert stage.runs()["a"].split()[1] == b"1"
    assert len(stage.messages()) == 1
