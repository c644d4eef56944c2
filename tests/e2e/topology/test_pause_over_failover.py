"""A pause that outlives its server: the promoted replica has it, and whoever leads obeys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.operations.commands import Found, invoke
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import installed_kinds
from tests.support.servers.sentinels import SentinelGroup

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.2}}'


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup(installed_kinds()[0]) as group:
        yield group


@pytest.mark.long
@pytest.mark.timeout(180)
def test_nothing_is_published_after_a_failover_until_the_resumption(
    children: Children, tmp_path: Path, group: SentinelGroup
) -> None:
    settings: dict[str, Any] = {"leader_ttl": 2.0, "leader_wait": 0.2}
    write_app(tmp_path, group.url, SCHEDULE, broker_transport_options=group.options, **settings)
    beats = [Beat(children, tmp_path, name=f"beat {number}") for number in (1, 2)]
    leader_of(lambda: beats, 60)

    def run(*words: str) -> Found:
        return invoke(group.url, "shop", "--master-name", "mymaster", *words)

    def queued() -> list[str]:
        client: Any = group.master.client()
        return [json.loads(each)["headers"]["id"] for each in client.lrange("celery", 0, -1)]

    def said() -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in beats)

    wait_until(lambda: len(queued()) > 2, 60, said)
    paused = run("pause", "--by", "ann", "--wait", "30")
    assert paused.code == 0, paused.output
    before = queued()
    former = group.master
    # Replication is asynchronous: what the replica has not got yet, the pause too, would be lost.
    assert former.client().wait(1, 5000) >= 1
    former.kill()
    group.wait_failed_over(former)
    wait_until(lambda: run("status", "--role", "beat").code == 0, 60, said)
    # Whoever is elected on the promoted server meets the pause there.
    leader = next(beat for beat in beats if beat.leads)
    leader.kill()
    other = leader_of(lambda: beats, 60, other_than=leader)
    wait_until(lambda: "it is paused" in other.child.output, 60, said)
    assert run("status", "--json").json["ledger"]["paused"] is True
    assert queued() == before
    assert run("resume").code == 0
    wait_until(lambda: len(queued()) > len(before) + 2, 60, said)
    ids = queued()
    assert len(set(ids)) == len(ids)
    assert "Traceback" not in said()
