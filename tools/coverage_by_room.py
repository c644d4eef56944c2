"""Run the ordinary tests under branch coverage and print what they reach, by room.

    python tools/coverage_by_room.py [--tree PATH] [pytest arguments]

Every process that the tests start is measured, too: workers, beats, pool processes and forks.
Tests end theirs with SIGKILL, after which nothing is written: so each process writes its data at
a signal that it is sent first. What a test kills on purpose is not in the figures.

For as long as it runs, a file in the environment's ``site-packages`` makes the processes listen to
that signal; all else lives in a temporary folder. Needs coverage 7.12 or later, on Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coverage import CoverageData

PACKAGE = "celery_safe_leader"
FIRST_PASS = ["-q", "-n", "3", "--dist", "worksteal", "-m", "not long and not docker and not quiet"]
"""What ``make test`` gives pytest first. What measures time would measure the tracer."""
MEASURED = ("num_statements", "covered_lines", "num_branches", "covered_branches")
_SETTINGS = """\
[run]
branch = true
parallel = true
patch = subprocess, fork, _exit
data_file = {folder}/data
include = {tree}/{package}/*
disable_warnings =
    already-imported
    couldnt-parse
    dynamic-conflict
    module-not-measured
    no-data-collected
    no-sysmon
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
"""
_HOOK = "COVERAGE_HOOK"
_START_HOOK = (
    f"import os; n = os.getenv({_HOOK!r}); "
    "[(exec(f.read(), {}), f.close()) for f in map(open, n and [n] or [])]\n"
)
_SAVE_FIRST = """\
import os, signal, time

_SAVE = signal.SIGRTMIN + 5
_LIMIT = 2.0

def _save_and_end(*_):
    os._exit(0)  # which coverage has patched: it saves

def _running(group):
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, of = file.read().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state not in "ZXT":
            return True
    return False

def _killpg(group, number, _killpg=os.killpg):
    if number == signal.SIGKILL:
        _killpg(group, _SAVE)
        end = time.monotonic() + _LIMIT
        while _running(group) and time.monotonic() < end:
            time.sleep(0.01)
    _killpg(group, number)

signal.signal(_SAVE, _save_and_end)
os.killpg = _killpg
"""


@contextmanager
def hook(folder: Path) -> Iterator[None]:
    """Let every Python of this environment listen to the signal, if it is told by the variable."""
    program = folder / "save_first.py"
    program.write_text(_SAVE_FIRST)
    path = Path(sysconfig.get_path("purelib")) / "coverage_by_room.pth"
    path.write_text(_START_HOOK)
    os.environ[_HOOK] = str(program)
    try:
        yield
    finally:
        path.unlink()
        del os.environ[_HOOK]


def room_of(path: Path) -> str:
    """Return the folder of a module, as seen from the package; the package's own is ``.``."""
    return str(path.parent)


def by_room(files: Mapping[Path, Mapping[str, int]]) -> dict[str, Counter[str]]:
    """Add the summaries of files up by room.

    Args:
        files: What coverage says of each module, by its path below the package.
    """
    rooms: dict[str, Counter[str]] = {}
    for path, summary in sorted(files.items()):
        counts = rooms.setdefault(room_of(path), Counter())
        counts.update({name: summary[name] for name in MEASURED})
    return rooms


def table(rooms: Mapping[str, Counter[str]]) -> str:
    """Return the lines of a table in Markdown, with the sum last."""
    lines = [
        "| room | statements | covered | branches | covered | branches covered |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    total: Counter[str] = Counter()
    for counts in rooms.values():
        total.update(counts)
    for room, counts in [*rooms.items(), ("all", total)]:
        figures = [counts[name] for name in MEASURED]
        share = 100 * figures[3] / figures[2] if figures[2] else 100.0
        lines.append(f"| {room} | {' | '.join(map(str, figures))} | {share:.1f} % |")
    return "\n".join(lines)


def measure(tree: Path, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run pytest in a tree under coverage; return coverage's report."""
    settings = folder / "coveragerc"
    settings.write_text(_SETTINGS.format(folder=folder, tree=tree, package=PACKAGE))
    coverage = [sys.executable, "-m", "coverage"]
    given = f"--rcfile={settings}"
    with hook(folder):
        ended = subprocess.run([*coverage, "run", given, "-m", "pytest", *arguments], cwd=tree)
    if ended.returncode:
        print(f"The tests ended with {ended.returncode}; what they reached counts all the same.")
    subprocess.run([*coverage, "combine", given, "--quiet"], cwd=tree, check=True)
    data = CoverageData(str(folder / "data"))
    data.read()
    # A module that no process imported counts, too.
    data.touch_files([str(path) for path in (tree / PACKAGE).rglob("*.py")])
    data.write()
    report = folder / "report.json"
    subprocess.run([*coverage, "json", given, "--quiet", "-o", str(report)], cwd=tree, check=True)
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="root of the repository")
    parser.add_argument("--json", type=Path, help="keep coverage's report in this file")
    known, arguments = parser.parse_known_args()
    tree = known.tree.resolve()
    with tempfile.TemporaryDirectory(prefix="coverage-") as name:
        report = measure(tree, Path(name), arguments or FIRST_PASS)
    if known.json is not None:
        known.json.write_text(json.dumps(report))
    package = tree / PACKAGE
    files = {
        (tree / path).relative_to(package): entry["summary"]
        for path, entry in report["files"].items()
    }
    print(table(by_room(files)))


if __name__ == "__main__":
    main()
