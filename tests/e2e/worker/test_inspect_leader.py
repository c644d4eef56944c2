"""``celery inspect leader`` with real workers and a real beat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.worker.control import Panel

from celery_safe_leader.bootsteps import inspection
from tests.support.celery.beats import Beat
from tests.support.celery.workers import Worker, leader_of, write_worker_app
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

BEATS_ANSWER = tuple(int(part) for part in celery.__version__.split(".")[:2]) >= (5, 7)
"""Beats have a remote control from Celery 5.7 on."""
Inspect = Callable[..., dict[str, Any]]
FIELDS = {
    "election",
    "role",
    "candidate_id",
    "leader",
    "fencing_token",
    "since",
    "lease_remaining",
    "last_error",
}


@pytest.fixture
def inspect(children: Children, tmp_path: Path) -> Inspect:
    """Run the command, as people do, and return the answers by node."""

    def run(*nodes: str) -> dict[str, Any]:
        # It is over once as many have answered as were asked by name.
        asked = ["-d", ",".join(nodes), "-t", "10"] if nodes else ["-t", "1"]
        program = ["celery", "-A", "app", "inspect", *asked, "-j", "leader"]
        child = children.module(*program, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
        assert child.wait(30) == 0, child.output
        answers: dict[str, Any] = json.loads(child.output.splitlines()[0])
        return {name.split("@")[0]: answer for name, answer in answers.items()}

    return run


@pytest.mark.timeout(120)
def test_every_node_says_what_it_knows(
    inspect: Inspect, children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    with Proxy(valkey_server.port) as link:
        more = "app.conf.leader_url = os.environ.get('ELECTION', app.conf.leader_url)\n"
        more += "app.conf.beat_enable_remote_control = True\n"
        write_worker_app(tmp_path, valkey_server.url, valkey_server.url, more=more)

        def start(name: str, *arguments: str, **env: str) -> Worker:
            return Worker(children, tmp_path, "-c", "1", *arguments, name=name, env=env)

        first = start("first")
        leader_of([first], 30)
        second = start("second", ELECTION=link.url())
        aside = start("aside", "--no-leader")
        beat = Beat(children, tmp_path)
        second.child.wait_for_line("leads (takes over", 30)
        aside.wait_ready()
        beat.child.wait_for_line("Elected leader", 30)
        nodes = {"first", "second", "aside", *["celerybeat"] * BEATS_ANSWER}
        answers: dict[str, Any] = {}
        wait_until(lambda: answers.update(inspect()) or set(answers) == nodes, 30, "all answers")
        for name, answer in answers.items():
            assert set(answer) == (FIELDS if name == "celerybeat" else FIELDS | {"consumes"})

        leads, sees, stands_aside = (answers[name] for name in ("first", "second", "aside"))
        assert leads["role"] == "leader"
        assert leads["election"] == sees["election"] == stands_aside["election"] == "shop:worker"
        assert f":{first.pid}:" in leads["candidate_id"]
        assert leads["leader"] == leads["candidate_id"]
        assert f"(token {leads['fencing_token']})" in first.child.output
        assert 0 < leads["lease_remaining"] <= 0.99
        assert leads["last_error"] is None
        assert (leads["consumes"], sees["consumes"]) == (True, False)

        assert sees["role"] == "standby"
        assert sees["leader"] == leads["leader"]
        assert sees["fencing_token"] == leads["fencing_token"]
        assert f":{second.pid}:" in sees["candidate_id"]
        assert leads["since"] < sees["since"]

        assert stands_aside["role"] == "takes no part"
        assert stands_aside["leader"] is None
        if BEATS_ANSWER:
            dispatches = answers["celerybeat"]
            assert (dispatches["role"], dispatches["election"]) == ("leader", "shop:beat")
            assert f":{beat.pid}:" in dispatches["leader"]

        link.black_hole()
        second.child.wait_for_line("no answer from Redis", 30)

        def cut_off() -> dict[str, Any] | None:
            answer: dict[str, Any] = inspect("second@test")["second"]
            return answer if answer["role"] == "nobody leads" else None

        doubts = wait_until(cut_off, 30, "its doubt")
        assert doubts is not None
        assert "no answer from Redis" in doubts["last_error"]["error"]
        assert doubts["leader"] is doubts["fencing_token"] is doubts["since"] is None


def test_the_command_is_listed_with_what_it_is_for() -> None:
    assert callable(inspection.leader)
    meta = Panel.meta["leader"]
    assert (meta.type, meta.visible) == ("inspect", True)
    assert meta.help.startswith("Who leads, as this node sees it")


@pytest.mark.timeout(60)
def test_a_worker_without_the_election_says_what_is_missing(
    inspect: Inspect, children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    source = f"from celery import Celery\napp = Celery('bare', broker={valkey_server.url!r})\n"
    (tmp_path / "app.py").write_text(source)
    worker = Worker(children, tmp_path, "-P", "solo", name="bare")
    worker.wait_ready()
    answer = inspect("bare@test")["bare"]
    assert "celery_safe_leader.install(app)" in answer["error"]
