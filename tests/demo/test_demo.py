"""The demo, run for real: what it prints, how it ends, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.example.project import environment
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.child import ROOT

pytestmark = pytest.mark.quiet

BOOT = 30


@pytest.fixture
def demo(children: Children, tmp_path: Path) -> Callable[[], Child]:
    """Start the demo, with its temporary files in the test's folder."""

    def start() -> Child:
        argv = [sys.executable, "-m", "demo"]
        return children.start(argv, env=environment(TMPDIR=str(tmp_path)), cwd=ROOT, name="demo")

    return start


def started_processes(output: str) -> list[int]:
    """Return the process ids that the demo told of."""
    return [int(pid) for pid in re.findall(r"as process (\d+)", output)]


def group_exists(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def assert_nothing_is_left(output: str, folder: Path) -> None:
    pids = started_processes(output)
    assert pids
    # Each process led a group, in which its own children were.
    wait_until(lambda: not any(map(group_exists, pids)), 5, f"the end of {pids}")
    assert list(folder.iterdir()) == []


@pytest.mark.timeout(90)
def test_the_demo_shows_a_takeover_and_a_handover_and_counts_no_fault(
    demo: Callable[[], Child], tmp_path: Path
) -> None:
    running = demo()
    code = running.wait(80)
    output = running.output
    assert code == 0, output
    took = {what: int(ms) for what, ms in re.findall(r"(takeover|handover) took (\d+) ms", output)}
    assert set(took) == {"takeover", "handover"}
    assert took["takeover"] <= 2420 + 200
    assert took["handover"] <= 300
    assert re.search(r"^\s*lost 0, doubled 0$", output, re.MULTILINE)
    for entry, least in (("count-stock", 12), ("poll-payments", 50)):
        row = re.search(rf"^\s*{entry} +(\d+) +(\d+) +0 +0 +0$", output, re.MULTILINE)
        assert row, output
        assert least <= int(row[1]) <= int(row[2])
    assert len(re.findall(r"beat-\d +LEADS \(fencing token \d+\)", output)) == 3
    assert re.search(r"beat-\d +dispatched, and the worker executed: \d+ x", output)
    # Not a terminal: no colours.
    assert "\033" not in output
    assert_nothing_is_left(output, tmp_path)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_the_demo_cleans_up_when_it_is_interrupted(
    demo: Callable[[], Child], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    running = demo()
    running.wait_for_line(r"beat-3    started", BOOT)
    running.signal(number)
    assert running.wait(10) == code
    assert "Traceback" not in running.output
    assert_nothing_is_left(running.output, tmp_path)


def test_the_demo_cleans_up_and_fails_when_a_process_breaks(
    demo: Callable[[], Child], tmp_path: Path
) -> None:
    running = demo()
    running.wait_for_line("beat-3    started", BOOT)
    match = re.search(r"valkey +runs as process (\d+)", running.output)
    assert match
    os.killpg(int(match[1]), signal.SIGKILL)
    assert running.wait(30) == 1
    assert "FAILED" in running.output
    assert_nothing_is_left(running.output, tmp_path)


def test_no_process_outlives_a_demo_that_was_killed(
    demo: Callable[[], Child], tmp_path: Path
) -> None:
    running = demo()
    running.wait_for_line("beat-3    started", BOOT)
    running.kill()
    pids = started_processes(running.output)
    wait_until(lambda: not any(map(group_exists, pids)), 20, f"the end of {pids}")
