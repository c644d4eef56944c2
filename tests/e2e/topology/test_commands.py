"""The commands that act, and ``watch``, with real beats behind Sentinels and in a cluster.

Whoever acts has exactly the rights that are printed for an operator, on every server. In the middle
of it the server changes.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.operations.commands import Found, invoke
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server, installed_kinds
from tests.support.servers.cluster import Cluster
from tests.support.servers.rights import denials, printed, user_with
from tests.support.servers.sentinels import SentinelGroup

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.2}}'
LEASE = ElectionKeys("shop", "beat").lease


@dataclass
class Place:
    """Where election and ledger are, behind another server that is the broker."""

    url: str
    """For beats; commands log in as the operator."""
    options: dict[str, Any]
    words: tuple[str, ...]
    """Of the commands."""
    operator_url: str
    servers: list[Server]
    change_server: Callable[[], None]


@contextmanager
def behind_sentinels() -> Iterator[Place]:
    with SentinelGroup(installed_kinds()[0]) as group:

        def fail_over() -> None:
            former = group.master
            # Replication is asynchronous: what the replicas have not got yet would be lost.
            assert former.client().wait(2, 30_000) == 2
            former.kill()
            group.wait_failed_over(former)

        url = group.url.replace("sentinel://", "sentinel://celery-leader-operator:pw@")
        words = ("--master-name", "mymaster")
        servers = list(group.servers)
        yield Place(group.url, group.options, words, url, servers, fail_over)


@contextmanager
def in_a_cluster() -> Iterator[Place]:
    with Cluster(installed_kinds()[0]) as cluster:

        def fail_over() -> None:
            former = cluster.master_of(LEASE)
            cluster.replica_of(former).ask("CLUSTER", "FAILOVER")
            cluster.wait_failed_over(LEASE, former)

        url = cluster.url(LEASE)
        operator_url = url.replace("://", "://celery-leader-operator:pw@")
        yield Place(url, {}, (), operator_url, list(cluster.nodes), fail_over)


@dataclass
class CommandStage:
    """Two beats, and somebody who acts."""

    place: Place
    broker: Server
    beats: list[Beat]

    def run(self, *words: str) -> Found:
        return invoke(self.place.operator_url, "shop", *self.place.words, *words)

    def done(self, *words: str) -> Any:
        found = self.run(*words, "--json")
        assert found.code == 0, f"{words}: {found.output}\n{self.said()}"
        return found.json

    def queued(self) -> list[str]:
        client: Any = self.broker.client()
        return [json.loads(each)["headers"]["id"] for each in client.lrange("celery", 0, -1)]

    def said(self) -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in self.beats)

    def wait_for_more(self) -> None:
        before = len(self.queued())
        wait_until(lambda: len(self.queued()) > before + 1, 60, self.said)

    def other_than(self, beat: Beat) -> Beat:
        (other,) = (each for each in self.beats if each is not beat)
        return other

    def watch(self, children: Children) -> Child:
        words = [
            *("-m", "celery_safe_leader", "--url", self.place.operator_url, "--key", "shop"),
            *self.place.words,
        ]
        return children.start(
            [sys.executable, *words, "watch", "--role", "beat", "--every", "0.5s"],
            env={"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            name="watch",
        )


def shows(watch: Child, text: str) -> None:
    """Wait until it says something from here on."""
    seen = len(watch.lines)
    wait_until(lambda: any(text in each for each in watch.lines[seen:]), 60, lambda: watch.output)


def grant(servers: Iterable[Server], url: str) -> None:
    for server in servers:
        user_with(server, printed("shop", url)[2])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("topology", [behind_sentinels, in_a_cluster], ids=["sentinel", "cluster"])
def test_the_commands_act_before_and_after_the_server_changes(
    children: Children,
    tmp_path: Path,
    start_server: Callable[..., Server],
    topology: Callable[[], Any],
) -> None:
    broker = start_server()
    with topology() as place:
        grant(place.servers, place.url)
        settings: dict[str, Any] = {"leader_ttl": 2.0, "leader_wait": 0.2}
        settings |= {"leader_url": place.url, "leader_options": place.options}
        write_app(tmp_path, broker.url, SCHEDULE, **settings)
        beats = [Beat(children, tmp_path, name=f"beat {number}") for number in (1, 2)]
        stage = CommandStage(place, broker, beats)
        act(stage, stage.watch(children))


def act(stage: CommandStage, watch: Child) -> None:
    first = leader_of(lambda: stage.beats, 60)
    second = stage.other_than(first)
    second.wait_standing_by()
    stage.wait_for_more()
    shows(watch, f":{first.pid}:")

    told = stage.done("resign", "--by", "ann")
    assert f":{first.pid}:" in told["resigned"]
    assert f":{second.pid}:" in told["elected"]
    leader_of(lambda: stage.beats, 60, other_than=first)
    shows(watch, f":{second.pid}:")
    candidate = told["resigned"]
    told = stage.done("resign", "--by", "ann", "--to", candidate)
    assert told["elected"] == told["asked_for"] == candidate
    stage.wait_for_more()

    stage.done("pause", "--by", "ann", "--reason", "move", "--wait", "30s")
    before = stage.queued()
    shows(watch, "PAUSED")
    stage.place.change_server()
    wait_until(lambda: stage.run("status", "--role", "beat").code == 0, 60, stage.said)
    assert stage.run("status", "--json").json["ledger"]["paused"] is True
    shows(watch, "led by")

    # Whoever is elected at the other server meets the pause there.
    told = stage.done("resign", "--by", "ann")
    assert told["elected"] != told["resigned"]
    heir = next(each for each in stage.beats if f":{each.pid}:" in told["elected"])
    wait_until(lambda: "it is paused" in heir.child.output, 60, stage.said)
    shows(watch, f":{heir.pid}:")
    assert stage.queued() == before, "nothing is published"
    assert stage.done("resume", "--by", "ann")["was_paused"] is True
    stage.wait_for_more()

    ids = stage.queued()
    assert len(set(ids)) == len(ids), "no run twice"
    watch.signal(signal.SIGINT)
    assert watch.wait(30) == 0
    history = stage.run("history", "--role", "beat")
    assert history.output.count("handed over (requested by ann)") >= 3, history.output
    assert "Traceback" not in stage.said() + watch.output
    running = [each for each in stage.place.servers if each.running]
    denied = {each for server in running for each in denials(server.client())}
    # Without an app the library's election is looked at too, which an operator may not read.
    assert denied <= {"celery-leader-operator: {leader:shop}:lease"}
