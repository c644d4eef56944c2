"""Running what depends on time again and again: what is chosen, counted and left behind."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.flaky.__main__ import Count, counts, table
from tests.flaky.rule import MARKER, depends_on_time
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT

HERE = "tests/unit/runtime/test_broadcast.py"


def test_a_test_that_starts_something_or_waits_is_chosen() -> None:
    assert depends_on_time(["x = 1", "with Server(kind) as server: ..."])
    assert depends_on_time(["def test(children): ..."])
    assert depends_on_time(["time.sleep(1)"])
    assert not depends_on_time(["def test_parse(): assert parse('x') == 1"])


def test_each_test_is_marked_by_that_rule(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker(MARKER) is not None


def test_the_table_begins_with_what_failed() -> None:
    outcomes = [
        {"test": "a", "outcome": "passed"},
        {"test": "b", "outcome": "passed"},
        {"test": "b", "outcome": "failed"},
    ]
    assert counts(outcomes) == {"a": Count(1, 0), "b": Count(2, 1)}
    assert table(counts(outcomes))[1:] == ["      2         1  b", "      1         0  a"]


def busy(children_of: int) -> list[int]:
    """Return the processes that hold a core for a process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            command = (folder / "cmdline").read_bytes()
            parent = int(re.search(r"PPid:\t(\d+)", (folder / "status").read_text())[1])  # type: ignore[index]
        except (OSError, TypeError):
            continue
        if parent == children_of and b"sched_setaffinity" in command and b"-I" not in command:
            found.append(int(folder.name))
    return found


# It starts pytest twice, and keeps all cores busy meanwhile, also those of the tests beside it.
@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_outcomes_of_all_runs_are_counted(children: Children, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "tests.flaky", "--count", "2", "--folder", str(tmp_path), HERE]
    running = children.start(argv, cwd=ROOT, name="flaky")
    code = running.wait(300)
    noted = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    tests = {each["test"] for each in noted}
    assert tests
    assert sorted((each["run"], each["test"]) for each in noted) == sorted(
        (number, test) for number in (1, 2) for test in tests
    )
    failed = sum(each["outcome"] == "failed" for each in noted)
    assert f"{2 * len(tests)} runs of {len(tests)} tests, {failed} failed" in running.output
    assert code == (1 if failed else 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_busy_process_is_left_when_it_is_interrupted(
    children: Children, tmp_path: Path, number: signal.Signals
) -> None:
    argv = [sys.executable, "-m", "tests.flaky", "--folder", str(tmp_path), HERE]
    running = children.start(argv, cwd=ROOT, name="flaky")
    held = wait_until(lambda: busy(running.pid), 60, "the busy processes")
    running.signal(number)
    assert running.wait(60) != 0
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in held), 60, f"no {held}")
