"""The commands where the server has to be found first: behind Sentinels, and in a cluster."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader import create_safe_redis_leader
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.operations.commands import Found, invoke
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.cluster import Cluster
from tests.support.servers.kinds import installed_kinds
from tests.support.servers.sentinels import SentinelGroup

KIND = installed_kinds()[0]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(KIND) as cluster:
        yield cluster


@pytest.fixture
def group() -> Iterator[SentinelGroup]:
    with SentinelGroup(KIND) as group:
        yield group


def look(url: str, options: Mapping[str, Any], words: Sequence[str]) -> None:
    with create_safe_redis_leader(
        redis=url, key="shop", ttl=3.0, wait=0.2, options=options
    ) as leader:
        token = leader.wait_until_leader(60)
        for command in ("status", "history"):
            found = invoke(url, "shop", *words, command)
            assert found.code == 0, found.output
            assert str(token) in found.output
        for role in ((), ("--role", "library")):
            for what in ("--ready", "--leader"):
                found = invoke(url, "shop", *words, "probe", what, *role)
                assert (found.code, leader.candidate_id in found.output) == (0, True), found.output
        found = invoke(url, "shop", *words, "check", "--json")
        assert found.code == 0, found.output
        assert {each["subject"] for each in found.json["findings"]} >= {"server", "library leader"}
        assert invoke(url, "shop", *words, "runs").code == 1, "there is no ledger"
        assert invoke(url, "shop", *words, "pause").code == 1, "there is no ledger"
        move(url, words)


def move(url: str, words: Sequence[str]) -> None:
    """A ledger comes, gets another name for an entry, and goes on."""
    entry = {"entry": "a", "value": "1790000000000000 1 1790000000000000 f"}
    whole = {"schema": "ledger", "version": 1, "key": "other", "election": "beat", "paused": True}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger.json")
        file.write_text(json.dumps({**whole, "entries": [entry], "claims": []}))
        for command in (
            ("import", str(file)),
            ("rename", "a", "b"),
            ("export", "--force", str(file)),
        ):
            found = invoke(url, "shop", *words, "ledger", *command)
            assert found.code == 0, found.output
        assert [each["entry"] for each in json.loads(file.read_text())["entries"]] == ["b"]


def act(
    url: str,
    options: Mapping[str, Any],
    words: Sequence[str],
    children: Children,
    folder: Path,
    broker: Server,
) -> None:
    """A real beat takes over the ledger that was moved, which is paused, and does as it is told."""
    settings: dict[str, Any] = {"leader_url": url, "leader_options": options, "leader_key": "shop"}
    write_app(folder, broker.url, '{"tick": {"task": "shop.work", "schedule": 0.2}}', **settings,
              leader_ttl=1.5, leader_wait=0.2, task_default_queue=f"of-{folder.name}")  # fmt: skip
    beat = Beat(children, folder)

    def run(*command: str) -> Found:
        found = invoke(url, "shop", *words, *command)
        assert found.code == 0, f"{found.output}\n{beat.child.output}"
        return found

    def queued() -> int:
        client: Any = broker.client()
        return int(client.llen(f"of-{folder.name}"))

    leader_of(lambda: [beat], 60)
    assert "it was elected again" in run("resign", "--role", "beat").output
    wait_until(lambda: "it is paused" in beat.child.output, 60, lambda: beat.child.output)
    assert queued() == 0
    run("resume")
    wait_until(lambda: queued() > 1, 60, lambda: beat.child.output)
    run("pause", "--wait", "30s")
    assert run("status", "--role", "beat", "--json").json["ledger"]["paused"] is True
    assert "Traceback" not in beat.child.output


def test_in_a_cluster(
    cluster: Cluster, children: Children, tmp_path: Path, quick_server: Server
) -> None:
    url = cluster.url(ElectionKeys("shop").lease)
    look(url, {}, ())
    act(url, {}, (), children, tmp_path, quick_server)


def test_behind_sentinels(
    group: SentinelGroup, children: Children, tmp_path: Path, quick_server: Server
) -> None:
    options, words = {"master_name": group.options["master_name"]}, ("--master-name", "mymaster")
    look(group.url, options, words)
    act(group.url, options, words, children, tmp_path, quick_server)
