"""Receivers of the signals that hang or exit: the worker follows its leadership all the same."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.network.proxy import Proxy
from tests.support.processes import wait_until

HANGS = """
from celery_safe_leader.signals import leader_demoted, leader_elected

def page_somebody(**fields):
    print(f"RECEIVER {fields['fencing_token']} {fields.get('reason', 'elected')}")
    time.sleep(3600)

leader_elected.connect(page_somebody)
"""
EXITS = """
import sys
from celery_safe_leader.signals import leader_demoted, leader_elected

@leader_elected.connect
@leader_demoted.connect
def leave(**fields):
    print(f"RECEIVER {fields['fencing_token']} {fields.get('reason', 'elected')}")
    sys.exit("out of here")

@leader_elected.connect
@leader_demoted.connect
def note(**fields):
    print(f"THE OTHER {fields['fencing_token']} {fields.get('reason', 'elected')}")
"""
STARTED = "Started consuming from"
CANCELED = "Canceling queue"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("fleet", ["redis"], indirect=True)
@pytest.mark.parametrize("receivers", ["hang", "exit"])
def test_a_worker_whose_receiver_hangs_or_exits_consumes_while_it_leads_and_not_longer(
    fleet: WorkerFleet, receivers: str
) -> None:
    with Proxy(fleet.server.port) as link:
        source = HANGS if receivers == "hang" else EXITS
        app = fleet.write(tasks=TASKS + source, leader_url=link.url())
        worker = fleet.start("-c", "1")
        leader_of([worker], 30)
        worker.child.wait_for_line("RECEIVER", 30)
        assert app.counted.delay(1).get(timeout=30) == worker.pid
        heard = len(worker.child.lines)
        link.black_hole()
        worker.child.wait_for_line(f"{CANCELED} {fleet.queue}", 30, after=heard)
        # Log lines do not wait for receivers either.
        worker.child.wait_for_line("Demoted: no longer leader", 30, after=heard)
        link.heal()
        worker.child.wait_for_line(f"{STARTED} {fleet.queue}", 30, after=heard)
        worker.child.wait_for_line("Elected leader of", 30, after=heard)
        assert app.counted.delay(1).get(timeout=30) == worker.pid

        def calls(who: str = "RECEIVER") -> list[list[str]]:
            return [line.split()[-2:] for line in worker.child.lines if who in line]

        if receivers == "exit":
            called = wait_until(lambda: calls() if len(calls()) > 2 else [])[:3]
            assert [reason for _, reason in called] == ["elected", "expired", "elected"]
            assert called[0][0] == called[1][0] < called[2][0]
            assert "out of here" in worker.child.output
            # One that exits costs the others nothing.
            wait_until(lambda: calls("THE OTHER")[:3] == called)
        else:
            assert len(calls()) == 1
            line = worker.child.wait_for_line("has not returned for 5 s", 30).text
            assert "page_somebody (" in line
            assert "app.py:" in line
        worker.child.signal(signal.SIGTERM)
        assert worker.child.wait(45) == 0
    assert worker.child.output.count("has not returned for 5 s") == (receivers == "hang")
