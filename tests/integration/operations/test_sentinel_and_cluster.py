"""The commands where the server has to be found first: behind Sentinels, and in a cluster."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader import cli, create_safe_redis_leader
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.operations.commands import Found, invoke
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.cluster import Cluster
from tests.support.servers.kinds import installed_kinds
from tests.support.servers.rights import printed
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


LOGINS = {"viewer": ("shop-viewer", "Pw-viewer"), "operator": ("shop-operator", "Pw-operator")}


@pytest.fixture
def closed_group() -> Iterator[SentinelGroup]:
    """All of it behind passwords, with a viewer and an operator on servers and Sentinels."""
    with SentinelGroup(KIND, password="Zq9-server", sentinel_password="Zq9-sentinel") as group:
        _, viewer, operator, sentinel = printed("shop", "sentinel://h")
        for right, words in (("viewer", viewer), ("operator", operator)):
            for server in group.servers:  # rights are not replicated
                with server.client() as client:
                    client.execute_command(*login(words, right))
            for each in group.sentinels:
                with each.client() as client:
                    client.execute_command(*login(sentinel, right))
        yield group


def login(words: Sequence[bytes], right: str) -> list[Any]:
    user, password = LOGINS[right]
    return [words[0], words[1], user, "on", f">{password}", *words[5:]]


def ask(group: SentinelGroup, right: str, *words: str, at_sentinels: str = "") -> Found:
    """Run a command as ``celery -A ops leader`` does, with settings of who looks or acts."""
    user, password = LOGINS[right]
    hosts = [f"127.0.0.1:{sentinel.port}" for sentinel in group.sentinels]
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        leader_key="shop",
        leader_url=";".join(f"sentinel://{user}:{password}@{host}/0" for host in hosts),
        leader_options={
            "master_name": "mymaster",
            "sentinel_kwargs": {"username": user, "password": at_sentinels or password},
        },
    )
    done = CliRunner().invoke(cli.leader, words, obj=SimpleNamespace(app=app))
    app.close()
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert password not in done.output
    return Found(done.exit_code, done.output)


def test_viewer_and_operator_log_in_at_sentinels_and_servers(closed_group: SentinelGroup) -> None:
    client: Any = closed_group.master.client()
    entry = {"entry": "a", "value": "1790000000000000 1 1790000000000000 f"}
    whole = {"schema": "ledger", "version": 1, "key": "other", "election": "beat", "paused": True}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "ledger.json")
        file.write_text(json.dumps({**whole, "entries": [entry], "claims": []}))
        imported = ask(closed_group, "operator", "ledger", "import", str(file))
    assert imported.code == 0, imported.output
    seen = ask(closed_group, "viewer", "status", "--json")
    assert seen.json["ledger"]["entries"] == 1
    assert seen.json["missing_rights"] == []
    refused = ask(closed_group, "viewer", "resume")
    assert (refused.code, "a right that an operator needs" in refused.output) == (2, True)
    assert ask(closed_group, "operator", "resume").code == 0

    wrong = ask(closed_group, "viewer", "status", at_sentinels="another")
    assert wrong.code == 2
    assert "no Sentinel names a master" in wrong.output
    assert "WRONGPASS" in wrong.output or "invalid username-password" in wrong.output

    client.wait(2, 5000)
    former = closed_group.master
    closed_group.fail_over()
    closed_group.wait_failed_over(former)
    seen = ask(closed_group, "viewer", "status", "--json")
    assert seen.json["ledger"]["entries"] == 1
    assert ask(closed_group, "operator", "pause").code == 0
