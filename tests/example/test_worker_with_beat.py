"""The example project with ``celery worker -B``: in Django nothing else has to be done for it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.example.project import EXAMPLE, environment, manage, run
from tests.support.celery.embedded import WorkerWithBeat
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server


@pytest.mark.long
def test_no_run_is_lost_when_the_leading_worker_is_killed(
    tmp_path: Path, valkey_server: Server, children: Children
) -> None:
    env = environment(
        SHOP_DATABASE=str(tmp_path / "shop.sqlite3"),
        SHOP_BROKER_URL=valkey_server.url,
        SHOP_LEADER_TTL="1",
        SHOP_LEADER_WAIT="0.2",
    )
    done = manage("migrate", "--noinput", env=env)
    assert done.returncode == 0, done.stderr
    program = ["celery", "-A", "shop", "worker", "-P", "solo", "-l", "INFO", "--without-mingle"]

    def worker(name: str, *arguments: str) -> WorkerWithBeat:
        argv = [*program, "-n", f"{name}@shop", *arguments]
        return WorkerWithBeat(children.module(*argv, env=env, cwd=EXAMPLE, name=name))

    runs = worker("runs").child
    # Those with a beat take no runs: of one that is killed, the broker would keep what it had.
    crew = [worker(name, "-B", "-Q", "other") for name in ("one", "two")]
    wait_until(lambda: any(each.leads for each in crew), 30, lambda: crew[0].child.output)
    leading, other = sorted(crew, key=lambda each: not each.leads)
    runs.wait_for_line("count_stock", 30)
    other.child.wait_for_line("leads (takes over", 30)
    leading.child.signal(signal.SIGKILL)
    other.child.wait_for_line("embedded beat dispatches now", 30)
    seen = len(runs.lines)
    for _ in range(2):
        runs.wait_for_line(
            lambda line: "count_stock" in line and "succeeded" in line, 30, after=seen
        )
        seen = len(runs.lines)
    assert other.child.stop() == 0
    assert runs.stop() == 0
    done = run("-m", "demo.audit", env=env, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in runs.output + other.child.output


@pytest.mark.parametrize("app", ["shop", "celery"])
def test_a_worker_can_be_told_to_take_no_part_before_django_is_loaded(app: str) -> None:
    # The command line is read first. Of an app without this package it means nothing.
    done = run("-W", "error", "-m", "celery", "-A", app, "worker", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--no-leader") == 1
