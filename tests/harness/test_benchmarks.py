"""The benchmarks: what they print of goals, and that their contenders still run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig
from tests.support.processes.child import ROOT
from tests.support.servers import Server


def test_each_goal_is_printed_with_its_figure_and_whether_it_holds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = Report()
    report.at_least("rate", 2.0, 2, " × the loop")
    report.at_least("rate of others", 1.994, 2, " × the loop")
    report.at_most("tick", 0.1004, 0.1, " ms")
    report.at_most("memory", 1738.2, 2000, " bytes")
    report.left_out("RabbitMQ", "none answers")
    report.goals()
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| rate: at least 2 × the loop | 2 × the loop | holds |",
        "| rate of others: at least 2 × the loop | 1.994 × the loop | **does not hold** |",
        "| tick: at most 0.1 ms | 0.1004 ms | **does not hold** |",
        "| memory: at most 2000 bytes | 1738 bytes | holds |",
        "| RabbitMQ | not measured | none answers |",
        "",
    ]


def test_unknown_part_is_refused_with_the_names_of_all() -> None:
    command = [sys.executable, "-m", "benchmarks", "speed"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no part speed; there are: dispatch, older, confirms, lateness, idle" in done.stderr


@pytest.mark.parametrize("contender", CONTENDERS, ids=lambda each: each.name.replace(" ", "-"))
def test_contender_sends_what_is_due_and_is_measured(
    contender: object, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    rates = Rates(Rig(server.url, server.url, tmp_path))
    rates.turn((20,), [contender])  # type: ignore[list-item]
    (key,) = rates.each
    assert rates.rate(*key) > 1
    assert rates.cost(*key) > 0
