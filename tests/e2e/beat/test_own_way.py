"""Leaders are killed while a receiver listens to what they publish: each run is executed once.

So every run goes Celery's own way, on Redis by the transactional way and on RabbitMQ by
write-ahead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.beat.test_broker_outage import BROKERS, delete
from tests.support.celery.chaos import Fleet, problems
from tests.support.processes import wait_until
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rabbitmq import RABBITMQ_URL

TTL, WAIT = 0.6, 0.1
STEPS = dict.fromkeys((f"entry-{index:03}" for index in range(60)), 1.5)
"""Forty runs a second."""
PHASE = 0.025
KILLS = 4
UNSENT = "was not published"
LISTENING = """
import os
from celery.signals import after_task_publish, before_task_publish

def note(kind):
    def receive(headers=None, **_):
        line = kind + "\\t" + headers["id"] + "\\n"
        file = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)
    return receive

RECEIVERS = [note("before"), note("after")]
before_task_publish.connect(RECEIVERS[0])
after_task_publish.connect(RECEIVERS[1])
"""


@pytest.fixture(params=BROKERS)
def fleet(request: pytest.FixtureRequest, tmp_path: Path, key: str) -> Iterator[Fleet]:
    with ExitStack() as cleanup:
        server = cleanup.enter_context(Server(installed_kinds()[0]))
        url = server.url
        if request.param == "rabbitmq":
            url = RABBITMQ_URL
            cleanup.callback(delete, url, key)
        (tmp_path / "heard").touch()
        fleet = Fleet(
            tmp_path,
            url,
            server.url,
            STEPS,
            phase=PHASE,
            more=LISTENING.format(path=str(tmp_path / "heard")),
            task_default_queue=key,
            worker_enable_remote_control=False,
            leader_ttl=TTL,
            leader_wait=WAIT,
        )
        yield cleanup.enter_context(fleet)


def heard(folder: Path, kind: str) -> list[str]:
    """Return the ids of the runs that receivers were told of."""
    lines = (folder / "heard").read_text().split("\n")[:-1]
    return [line.split("\t")[1] for line in lines if line.startswith(kind)]


def told(folder: Path, count: int) -> bool:
    """Return whether receivers were told of so many messages."""
    return len(heard(folder, "after")) >= count


@pytest.mark.timeout(120)
def test_each_run_is_executed_once_though_leaders_with_receivers_are_killed(
    fleet: Fleet, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fleet.start_worker("-P", "solo")
    fleet.wait_working()
    fleet.start_beat()
    for _ in range(KILLS):
        standby = fleet.start_beat()
        standby.wait_standing_by()
        leader = fleet.leader()
        enough = len(heard(tmp_path, "after")) + 30
        wait_until(partial(told, tmp_path, enough), 30)
        leader.kill()
        fleet.leader(other_than=leader)
    until = time.time_ns() // 1000
    fleet.wait_served(until)
    fleet.stop_beats()
    fleet.wait_idle(1.0)
    executions = fleet.executions()
    assert problems(executions, fleet.grids, until) == []
    # Celery logs with a traceback what is not sent since its beat ends: the next one sends it.
    assert [line for line in fleet.complaints() if "Traceback" not in line] == []
    for beat in fleet.beats:
        errors = beat.lines("Message Error")
        assert len(errors) <= 1
        assert all(UNSENT in line for line in errors)
    # On a busy machine one may lose its lease besides.
    assert fleet.takeovers > KILLS
    occurrences = {run.occurrence for run in executions}
    # Nobody hears of a message that was not written; a kill may come before the word of it.
    after = heard(tmp_path, "after")
    assert set(after) <= occurrences
    assert len(occurrences - set(after)) <= KILLS
    assert set(heard(tmp_path, "before")) >= occurrences
    once = [run.publication.startswith("once-") for run in executions]
    if "redis" in request.node.callspec.id:
        assert all(once)
        assert fleet.dropped == 0
        assert len(after) == len(set(after))
    else:
        assert not any(once)
        # A run that was under way at a kill is published again, and dropped by the worker.
        assert fleet.dropped <= KILLS
