"""The benchmarks: what they print of goals, and that their contenders still run."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import PARTS
from benchmarks.contenders import CONTENDERS, OVERDUE, OVERDUE_LOOP
from benchmarks.dispatch import Rates
from benchmarks.phase import Arrival, Phase
from benchmarks.reading import RAW
from benchmarks.report import Report
from benchmarks.stage import Rig
from tests.support.processes.child import ROOT
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls


def test_each_goal_is_printed_with_its_figure_and_whether_it_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report()
    report.at_least("rate", 2.0, 2, " × the loop")
    report.at_least("rate of others", 1.994, 2, " × the loop")
    report.at_most("tick", 0.1004, 0.1, " ms")
    report.at_most("lateness", 1.3, 1.2, " ms", beside="a raw socket 1.07 ms")
    report.at_most("memory", 1738.2, 2000, " bytes")
    report.left_out("RabbitMQ", "none answers")
    report.goals()
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| rate: at least 2 × the loop | 2 × the loop | holds |",
        "| rate of others: at least 2 × the loop | 1.994 × the loop | **does not hold** |",
        "| tick: at most 0.1 ms | 0.1004 ms | **does not hold** |",
        "| lateness: at most 1.2 ms | 1.3 ms; a raw socket 1.07 ms | **does not hold** |",
        "| memory: at most 2000 bytes | 1738 bytes | holds |",
        "| RabbitMQ | not measured | none answers |",
        "",
    ]


def test_unknown_part_is_refused_with_the_names_of_all() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"no part speed; there are: {', '.join(PARTS)}" in done.stderr


@pytest.mark.parametrize(
    "contender",
    [*CONTENDERS, replace(OVERDUE, name="overdue"), OVERDUE_LOOP],
    ids=lambda each: each.name.replace(" ", "-"),
)
def test_contender_sends_what_is_due_and_is_measured(
    contender: object, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    rates = Rates(Rig(server.url, server.url, tmp_path))
    rates.turn((20,), [contender])  # type: ignore[list-item]
    (key,) = rates.each
    assert rates.rate(*key) > 1
    assert rates.cost(*key) > 0


def played(stage: Rig, *, raw_socket: bool = False) -> tuple[Phase, dict[str, list[Arrival]]]:
    """Play two seconds, once more with more time before them if that was not enough."""
    for warm_up in (5, 25):
        phase = Phase(stage, 2, warm_up)
        arrivals = phase.run(raw_socket=raw_socket)
        if len(arrivals["leader"]) == phase.expected:
            break
        stage.clear()
    return phase, arrivals


def assert_all_read(phase: Phase, arrivals: list[Arrival]) -> None:
    """Check that no run is missing: on a busy machine some stand for several moments."""
    coalesced = sum(each.coalesced for each in arrivals)
    assert len(arrivals) <= phase.expected <= len(arrivals) + coalesced


@pytest.mark.parametrize(
    "other_broker",
    [
        pytest.param(False, id="one-script"),
        pytest.param(True, id="write-ahead", marks=pytest.mark.long),
    ],
)
def test_lateness_is_read_of_every_run_and_of_the_raw_socket(
    other_broker: bool, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    broker = start_server() if other_broker else server
    phase, arrivals = played(Rig(broker.url, server.url, tmp_path), raw_socket=not other_broker)
    assert_all_read(phase, arrivals["leader"])
    assert len(arrivals[RAW]) == (0 if other_broker else phase.expected)
    assert all(arrival.late > 0 for each in arrivals.values() for arrival in each)


@pytest.mark.parametrize("url", rabbitmq_urls(), ids=["rabbitmq"] * len(rabbitmq_urls()))
def test_lateness_at_rabbitmq_is_read_of_every_run(
    url: str, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    stage = Rig(url, server.url, tmp_path, f"bench-{uuid.uuid4().hex}")
    try:
        phase, arrivals = played(stage)
    finally:
        stage.clear()
    assert_all_read(phase, arrivals["leader"])
