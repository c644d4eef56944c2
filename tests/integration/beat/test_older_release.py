"""Schedulers of this release and of the one before lead in turns; each settles what was left."""

from __future__ import annotations

import time
from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._schedules.occurrence_id import occurrence_id
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.beat import LeaderScheduler
from tests.model.ledger.releases import Release, older, present
from tests.support.celery.inbox import Inbox, gaps
from tests.support.celery.services import BeatService, shop
from tests.support.older_release import older_module
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

STEP = 0.2
TICK = {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": "tick"}}


def claim_next(client: Any, key: str, release: Release, token: int) -> str:
    """Lead with a release's code, claim the next run, and vanish; return the run's id."""
    record = {"holder": "gone", "token": token, "renewal": "r", "resigned": 0}
    client.hset(ElectionKeys(key, "beat").lease, mapping=record | {"ttl": 300, "epoch": "e"})
    ledger = release.ledger.Ledger(client, key, "beat", ttl=10, clock=time.monotonic)
    ledger.adopt("gone", token)
    run = ledger.load().runs["tick"]
    moment = run.moment + round(STEP * 1_000_000)
    occurrence = occurrence_id(key, "tick", moment)
    claim = release.codec.Claim("tick", occurrence, moment, moment, run.fingerprint, token)
    written = ledger.write([], [release.results.Next(claim, run)])
    assert written.claims == (release.results.ClaimOutcome.CLAIMED,)
    return occurrence


@pytest.mark.parametrize("database", [0, 1], ids=["transactional", "write-ahead"])
def test_both_releases_lead_in_turns_and_settle_what_the_other_claimed(
    quick_server: Server, key: str, database: int
) -> None:
    broker = quick_server.url.removesuffix("/0") + f"/{database}"
    client: Any = quick_server.client(decode_responses=False)
    pending = LedgerKeys(key).pending
    other = older_module("beat").LeaderScheduler
    claimed = []
    with Inbox(broker, queue=key) as inbox:
        for scheduler, release in ((LeaderScheduler, present), (other, older)):
            app = shop(broker, key, {"tick": TICK}, leader_url=quick_server.url)
            with BeatService(app, scheduler):
                inbox.wait_for(2, since=time.monotonic())
            assert client.hkeys(pending) == [SENTINEL]
            claimed.append(claim_next(client, key, release(), time.time_ns() // 10**6))
        with BeatService(shop(broker, key, {"tick": TICK}, leader_url=quick_server.url)):
            inbox.wait_for(2, since=time.monotonic())
        wait_until(lambda: client.hkeys(pending) == [SENTINEL], 30, "the end of all claims")
        sent = inbox.sent()
    assert gaps(sent, STEP) == []
    ids = [each.task_id for each in sent]
    assert len(set(ids)) == len(ids)
    assert set(claimed) <= set(ids)
