"""Run the rows, print the table; the exit status is 1 if any test failed anywhere."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.matrix.environments import (
    FOLDER,
    ROOT,
    CannotInstallError,
    NoPythonError,
    RefusedPairError,
    prepare,
    versions,
)
from tests.matrix.rows import ROWS, Row, left_out

NOT_OURS = [
    # kombu up to 5.5 with redis-py 5.3.
    "ignore:Call to 'get_connection' function:DeprecationWarning",
    # Sockets that older releases leave to the garbage collection.
    "ignore::pytest.PytestUnraisableExceptionWarning",
]
"""Warnings that older releases cause among themselves."""
LIMIT = 1800
"""Seconds for the tests of one row."""


class Outcome(NamedTuple):
    """What became of a row."""

    row: Row
    releases: dict[str, str]
    text: str
    failed: bool


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names, or all rows."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("rows", nargs="*", help="names of rows; all if none is given")
    parser.add_argument("--list", action="store_true", help="show the names and end")
    parser.add_argument("-n", type=int, default=2, help="test processes at a time (2)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.rows) - {row.name for row in ROWS}:
        parser.error(f"no row is called {', '.join(sorted(unknown))}; see --list")
    if chosen.list:
        print("\n".join(row.name for row in ROWS))
        return 0
    outcomes = []
    for row in ROWS:
        if not chosen.rows or row.name in chosen.rows:
            outcomes.append(_run(row, chosen.n))
            print(f"{row.name}: {outcomes[-1].text}", flush=True)
    print(f"\n{_table(outcomes)}")
    failed = [outcome.row.name for outcome in outcomes if outcome.failed]
    if failed:
        print(f"\nFAILED: {', '.join(failed)}; their output is in {FOLDER}/NAME.log")
    return bool(failed)


def _run(row: Row, processes: int) -> Outcome:
    try:
        python = prepare(row)
    except CannotInstallError as error:
        # A pair that the extra forbids is a fact about it; without the extra, pip must manage.
        refused = row.extra and isinstance(error, RefusedPairError)
        known = refused or isinstance(error, NoPythonError)
        return Outcome(row, {}, f"not run: {error}", failed=not known)
    command = [python, "-m", "pytest", "-q", "-n", str(processes), "--dist", "worksteal"]
    command += ["-p", "celery.contrib.pytest", "-p", "no:cacheprovider"]
    command += ["-m", "not long and not docker and not quiet", *row.chosen]
    for test in left_out(releases := versions(python)):
        command += ["--deselect", test]
    for warning in NOT_OURS:
        command += ["-W", warning]
    log = FOLDER / f"{row.name}.log"
    began = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                [str(part) for part in command],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=LIMIT,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    took = time.monotonic() - began
    return Outcome(row, releases, f"{_count(log.read_text())}, {took:.0f} s", code != 0)


def _count(output: str) -> str:
    """Return the numbers of pytest's last line."""
    last = (output.splitlines() or [""])[-1]
    found = re.findall(r"(\d+ (?:failed|passed|skipped|errors?))\b", last)
    return ", ".join(found) or "broke off"


def _table(outcomes: Sequence[Outcome]) -> str:
    lines = ["| Python | Celery | kombu | redis-py | Django | tests |", "|---|---|---|---|---|---|"]
    for row, releases, text, _ in outcomes:
        shown = [
            releases.get(name, getattr(row, name).replace(".*", "") or "-")
            for name in ("python", "celery", "kombu", "redis", "django")
        ]
        shown[1] += "" if row.extra else " without its extra"
        lines.append(f"| {' | '.join(shown)} | {text} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
