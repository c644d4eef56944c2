"""Requests without a reply that cannot simply be repeated: no run is forgotten over them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.beat.driven_leaders import (
    DrivenLeaders,
    Leader,
)
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until


@pytest.fixture
def stage(stage_by_proxy: DrivenLeaders) -> DrivenLeaders:
    return stage_by_proxy


@pytest.fixture
def leader(stage: DrivenLeaders, proxy: Proxy) -> Leader:
    """Its request to publish or claim a run is not answered."""
    leader = stage.leader(stage.app(a=stage.entry("a", 0.0, 1.0)))
    wait_until(lambda: (leader.run(), stage.messages())[1])
    proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    return leader


def assert_goes_on(stage: DrivenLeaders, leader: Leader) -> None:
    """Check that the runs go on, with neither gap nor overlap."""
    count = len(stage.messages()) + 2
    wait_until(lambda: (leader.run(), len(stage.messages()) >= count)[1])
    ranges = [sent.covers for sent in stage.messages()]
    assert {later[0] - sooner[1] for sooner, later in pairwise(ranges)} == {1_000_000}


def test_the_run_is_published_after_the_lease_record_was_lost(
    stage: DrivenLeaders, leader: Leader, proxy: Proxy
) -> None:
    lease = ElectionKeys(stage.key, "beat").lease
    record: Any = stage.client.hgetall(lease)
    stage.client.delete(lease)
    proxy.heal()
    wait_until(lambda: (leader.run(), not leader.is_unanswered())[1])
    stage.client.hset(lease, mapping=record)
    assert_goes_on(stage, leader)


def test_the_run_is_published_after_the_server_had_no_memory_left(
    stage: DrivenLeaders, leader: Leader, proxy: Proxy
) -> None:
    stage.client.config_set("maxmemory", 1)
    proxy.heal()
    for _ in range(20):
        leader.run()
    stage.client.config_set("maxmemory", 0)
    assert_goes_on(stage, leader)


def test_a_run_that_is_too_late_by_then_is_missed(
    stage: DrivenLeaders, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    due = {name: stage.entry(name, 1.0) for name in ("late", "patient")}
    leader = stage.leader(stage.app(first=stage.entry("first", -1.0), **due))
    wait_until(lambda: (leader.run(), stage.messages())[1])
    proxy.black_hole()
    wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    leader.scheduler._roster.entries["late"].max_lateness_us = 0
    proxy.heal()
    wait_until(lambda: (leader.run(), not leader.is_unanswered() and not stage.pending())[1])
    sent = [each.headers["kwargsrepr"] for each in stage.messages()]
    assert sent == ["{'entry': 'first'}", "{'entry': 'patient'}"]
    assert stage.runs()["late"].split()[1] == b"1"
    assert caplog.text.count("more than the entry allows") == 1
