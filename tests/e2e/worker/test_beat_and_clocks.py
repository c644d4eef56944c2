"""``celery worker -B`` while Redis's clock is set: its beats find it out, and go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.chaos import MICROSECONDS, problems
from tests.support.celery.embedded import Crew
from tests.support.processes import wait_until
from tests.support.processes.shifted_clock import ShiftedClock, needs_compiler
from tests.support.servers import Server, installed_kinds

pytestmark = [needs_compiler, pytest.mark.timeout(150)]

STEPS = {"often": 0.25}
TTL = 2.0


class Scene:
    """Two workers with beats, and a Redis whose clock is set."""

    def __init__(self, cleanup: ExitStack, folder: Path) -> None:
        self.clock = ShiftedClock(folder, "redis")
        server = Server(installed_kinds()[0], env=self.clock.env)
        self.server = cleanup.enter_context(server)
        leave_resigned(server.url, "shop", "worker")
        crew = Crew(folder, server.url, STEPS, leader_ttl=TTL, leader_wait=0.2)
        self.crew = cleanup.enter_context(crew)
        crew.start_crew(2)

    def events(self, kind: str) -> list[str]:
        history: Any = self.server.client().xrange(ElectionKeys("shop", "worker").history)
        return [fields["reason"] for _, fields in history if fields["event"] == kind]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as cleanup:
        yield Scene(cleanup, tmp_path)


@pytest.mark.parametrize("step", [-30.0, pytest.param(3600.0, marks=pytest.mark.long)])
def test_workers_go_on_by_their_own_clock_if_it_is_rediss_that_is_off(
    scene: Scene, step: float
) -> None:
    crew = scene.crew
    crew.dispatching()
    crew.token()
    scene.clock.step(step)
    wait_until(
        lambda: any("no other beat does better" in w.child.output for w in crew.crew),
        60,
        lambda: "\n\n".join(worker.child.output for worker in crew.crew),
    )
    resigned = [reason for reason in scene.events("resigned") if reason != "resigned"]
    assert set(resigned) == {"stood_down:clock"}
    assert len(resigned) <= 3
    elections = len(scene.events("elected"))
    first = crew.token()
    crew.wait_run(time.time() + 2 * TTL)
    assert crew.token() == first
    assert len(scene.events("elected")) == elections
    # No beat was replaced: another process has no other clock.
    assert [len(worker.beats) for worker in crew.crew] == [1, 1]
    until = time.time_ns() // 1000 - MICROSECONDS
    crew.wait_served(until)
    assert problems(crew.executions(), crew.grids, until) == []
