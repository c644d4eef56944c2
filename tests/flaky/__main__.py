"""Run every test that depends on time again and again, on a machine that has other work to do.

    python -m tests.flaky [--count 20] [--workers 3] [PATH …]

One busy process holds each core meanwhile. Each outcome is a line in ``.flaky/outcomes.jsonl``. The
exit status is 0 only if no test failed in any run. A run that is interrupted can be continued with
``--continue``: what the file holds then counts too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.flaky.recorder import FILE, RUN
from tests.flaky.rule import MARKER
from tests.support.processes import Children
from tests.support.processes.child import ROOT

__all__ = ["Count", "counts", "table"]

FOLDER = ROOT / ".flaky"
BUSY = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
LONGEST = 3600.0
"""Seconds after which a run is given up."""


@dataclass
class Count:
    """How often a test ran and failed."""

    runs: int = 0
    failures: int = 0


def counts(outcomes: Iterable[dict[str, Any]]) -> dict[str, Count]:
    """Count the outcomes of each test."""
    found: defaultdict[str, Count] = defaultdict(Count)
    for outcome in outcomes:
        count = found[outcome["test"]]
        count.runs += 1
        count.failures += outcome["outcome"] == "failed"
    return dict(found)


def table(found: dict[str, Count]) -> list[str]:
    """Return a line for each test, those that failed most often first."""
    ordered = sorted(found.items(), key=lambda each: (-each[1].failures, each[0]))
    return [
        "   runs  failures  test",
        *(f"{count.runs:7}{count.failures:10}  {test}" for test, count in ordered),
    ]


def _outcomes(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _run(children: Children, number: int, file: Path, workers: int, arguments: list[str]) -> bool:
    """Run the tests once; return whether pytest itself worked, not whether they passed."""
    chosen = f"{MARKER} and not long and not docker"
    child = children.module(
        *("pytest", "-q", "-n", str(workers), "--dist", "worksteal", "-p", "tests.flaky.recorder"),
        *("-m", chosen, *arguments),
        env={FILE: str(file), RUN: str(number)},
        cwd=ROOT,
    )
    code = child.wait(LONGEST)
    (file.parent / f"run-{number}.log").write_text(child.output)
    print(f"run {number}: {child.lines[-1] if child.lines else 'nothing was said'}", flush=True)
    return code in (0, 1)


def main() -> int:
    """Run the tests so often, print the counts and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.flaky", description=__doc__)
    parser.add_argument("paths", nargs="*", metavar="PATH", help="test files or folders")
    parser.add_argument("--count", type=int, default=20, help="how often, 20 if not given")
    parser.add_argument("--workers", type=int, default=3, help="tests at once, 3 if not given")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the outcomes and logs")
    parser.add_argument("--continue", dest="goes_on", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "outcomes.jsonl"
    if not given.goes_on:
        file.unlink(missing_ok=True)
    done = max((outcome["run"] for outcome in _outcomes(file)), default=0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # Each child ends with this process, however this one ends.
    children, worked = Children(), True
    try:
        for core in sorted(os.sched_getaffinity(0)):
            children.python(BUSY, str(core), name=f"busy on core {core}")
        for number in range(done + 1, done + given.count + 1):
            worked = _run(children, number, file, given.workers, given.paths) and worked
    except KeyboardInterrupt:
        worked = False
    finally:
        children.close()
        found = counts(_outcomes(file))
        (given.folder / "table.txt").write_text("\n".join(table(found)) + "\n")
    print("\n".join(table(found)))
    runs, failures = (
        sum(getattr(c, name) for c in found.values()) for name in ("runs", "failures")
    )
    print(f"{runs} runs of {len(found)} tests, {failures} failed")
    return 0 if worked and found and not failures else 1


if __name__ == "__main__":
    sys.exit(main())
