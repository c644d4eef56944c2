"""``celery worker -B`` whose beat runs, gives signs of life, and gets nothing done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.chaos import MICROSECONDS, problems
from tests.support.celery.embedded import Crew, alive
from tests.support.processes import wait_until
from tests.support.servers import Server

STEPS = {"often": 0.25}
TTL = 3.0
"""Seconds: so long that a busy machine costs no lease. It is the shortest patience, too."""
_SICK = """
import pathlib
from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader.beat import LeaderScheduler

LeaderScheduler.patience = 0.0  # the ttl is longer
run = Dispatcher.run

def run_unless_sick(self, tenure):
    # By the pid of the beat, or of its worker.
    if any(pathlib.Path(f"sick-{pid}").exists() for pid in (os.getpid(), os.getppid())):
        raise OSError("no space left on device")
    return run(self, tenure)

Dispatcher.run = run_unless_sick
"""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def crew(tmp_path: Path, valkey_server: Server) -> Iterator[Crew]:
    url = valkey_server.url
    leave_resigned(url, "shop", "worker")
    with Crew(tmp_path, url, STEPS, leader_ttl=TTL, leader_wait=0.2, more=_SICK) as made:
        yield made


def resignations(server: Server) -> list[str]:
    history: Any = server.client().xrange(ElectionKeys("shop", "worker").history)
    reasons = [fields["reason"] for _, fields in history if fields["event"] == "resigned"]
    return [reason for reason in reasons if reason.startswith("stood_down")]


def check_runs(crew: Crew) -> None:
    """Check that each moment so far was served once."""
    until = time.time_ns() // 1000 - MICROSECONDS
    crew.wait_served(until)
    assert problems(crew.executions(), crew.grids, until) == []


def test_a_beat_that_cannot_work_is_replaced_and_its_worker_leads_on(
    crew: Crew, tmp_path: Path, valkey_server: Server
) -> None:
    crew.start_crew(2)
    leading = crew.dispatching()
    token, beat = crew.token(), leading.beats[0]
    (tmp_path / f"sick-{beat}").touch()
    leading.child.wait_for_line("This worker starts another one", 30)
    assert leading.wait_beat(2) != beat
    assert not alive(beat)
    assert crew.wait_run(time.time()).token == token
    assert resignations(valkey_server) == []
    check_runs(crew)


def test_if_another_beat_cannot_either_another_worker_leads(
    crew: Crew, tmp_path: Path, valkey_server: Server
) -> None:
    crew.start_crew(2)
    leading = crew.dispatching()
    token = crew.token()
    (tmp_path / f"sick-{leading.child.pid}").touch()
    leading.child.wait_for_line("this worker hands leadership over, and others go first", 30)
    other = crew.dispatching(other_than=[leading])
    assert crew.wait_run(time.time(), other_than=token).token > token
    assert resignations(valkey_server) == ["stood_down:process"]
    # It has another beat again, and stays behind.
    wait_until(partial(alive, leading.wait_beat(3)), 30)
    crew.token()
    assert other.leads
    assert not leading.leads
    check_runs(crew)


def test_a_worker_that_is_alone_goes_on_when_its_beat_can_work_again(
    crew: Crew, tmp_path: Path, valkey_server: Server
) -> None:
    crew.start_crew(1)
    alone = crew.dispatching()
    crew.token()
    sick = tmp_path / f"sick-{alone.child.pid}"
    sick.touch()
    wait_until(lambda: len(resignations(valkey_server)) >= 1, 60, lambda: alone.child.output)
    # Leads again, and its beat tries for longer than the ones before.
    alone.child.wait_for_line("it leads again and tries for 12 s", 30)
    sick.unlink()
    assert crew.wait_run(time.time()).token
    check_runs(crew)
