"""``celery leader status``, and settings on the command line, with real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.celery.beats import Beat, write_app
from tests.support.processes import Children
from tests.support.processes.child import Child
from tests.support.servers import Server


@pytest.fixture
def folder(tmp_path: Path, valkey_server: Server) -> Path:
    schedule = '{"tick": {"task": "shop.work", "schedule": 60}}'
    write_app(tmp_path, valkey_server.url, schedule, leader_ttl=1.0, leader_wait=0.2)
    return tmp_path


def status(children: Children, folder: Path, *options: str) -> Child:
    program = ["celery", "-A", "app", "leader", "status", *options]
    child = children.module(*program, env={"PYTHONPATH": str(folder)}, cwd=folder, name="status")
    child.wait(30)
    return child


def test_status_tells_who_leads_and_that_a_killed_one_does_not(
    children: Children, folder: Path, valkey_server: Server
) -> None:
    before = status(children, folder)
    assert before.returncode == 1
    assert "shop at redis://127.0.0.1" in before.output
    assert "no record: nobody has taken part since Redis was emptied" in before.output
    workers = status(children, folder, "--workers")
    assert workers.returncode == 1
    assert "no record: no worker has taken part since Redis was emptied" in workers.output

    beat = Beat(children, folder)
    beat.child.wait_for_line("Elected leader", 30)
    token = beat.tenures[-1].token
    leads = status(children, folder)
    assert leads.returncode == 0, leads.output
    assert f":{beat.pid}:" in leads.output
    assert f"(token {token}, ttl 1 s)" in leads.output
    assert "led by" in leads.output
    assert "ledger     " in leads.output

    beat.kill()
    # As long as the lease lasts, the dead one may still lead, for all that anybody knows.
    while (dead := status(children, folder)).returncode == 0:
        assert f"(token {token}, ttl 1 s)" in dead.output
    assert dead.returncode == 1
    assert "nobody leads; " in dead.output
    assert "which is more than its ttl" in dead.output

    valkey_server.kill()
    down = status(children, folder)
    assert down.returncode == 2
    assert "no answer from Redis" in down.output
    assert "Traceback" not in down.output


def test_a_beat_that_resigned_is_named(children: Children, folder: Path) -> None:
    beat = Beat(children, folder)
    beat.child.wait_for_line("Elected leader", 30)
    beat.terminate()
    after = status(children, folder)
    assert after.returncode == 1
    assert f":{beat.pid}:" in after.output
    assert "resigned" in after.output


def test_a_setting_on_the_command_line_counts_and_a_wrong_one_is_named(
    children: Children, folder: Path
) -> None:
    beat = Beat(children, folder, "--", "leader.ttl=3", "leader.wait=0.3")
    beat.child.wait_for_line("Standing by for", 30)
    assert any("ttl -> 3 seconds, wait 0.3 seconds" in line for line in beat.child.lines)
    beat.kill()

    wrong = Beat(children, folder, "--", "leader.ttl=1500").child
    assert wrong.wait(30) != 0
    assert "leader_ttl is 1500 s; it must be at most 300 s" in wrong.lines[-1]


def test_the_banner_says_which_way_is_tried(
    children: Children, folder: Path, valkey_server: Server
) -> None:
    beat = Beat(children, folder)
    beat.child.wait_for_line("Standing by for", 30)
    tried = "transactional if broker and ledger are one Redis database, else write-ahead"
    assert any(f". publication -> {tried}" in line for line in beat.child.lines)
    beat.kill()

    write_app(folder, "memory://", "{}", leader_url=valkey_server.url)
    other = Beat(children, folder)
    other.child.wait_for_line("Standing by for", 30)
    decided = "write-ahead (the broker is not Redis (memory))"
    assert any(f". publication -> {decided}" in line for line in other.child.lines)
    other.kill()
