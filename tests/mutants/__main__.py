"""Break election and ledger in each known way, and see which tests notice.

``python -m tests.mutants`` does it.

Each mutant is made in a copy of the package and its tests. The tests that are named for it must
fail, for the stated reason; then the seeded random faults run on it as a second net, which need
not catch every mutant. The outcome is written to docs/explanation/mutants.md.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.catalogue import MUTANTS, Mutant
from tests.support.processes.child import ROOT, clean_environment

TABLE = ROOT / "docs" / "explanation" / "mutants.md"
ELECTION = sorted(
    {"tests/model/election/test_unsafe_variants.py", "tests/unit/core"}
    | {
        test
        for mutant in MUTANTS
        for test in mutant.tests
        if mutant.of_election and not test.startswith("tests/model/")
    }
)
"""What runs on each mutant of the election: all that decides who leads, and what is named."""
LEDGER = sorted({test for m in MUTANTS if not m.of_election for test in m.tests})
"""What runs on each mutant of the ledger: what is named for some of them."""
RUNS = 25
"""Seeds of the second net for each mutant."""

_HEAD = """\
# Mutants

What happens when one rule of the election, the ledger or publication is taken out. Made by
`make mutants`, which changes the real files in a copy, runs the tests, and fails unless the tests
that are named for a mutant fail for the stated reason. *Random faults*: whether seeded histories of
random faults (`python -m tests.model.election.explorer`) find it too, and at which seed; they ask
no replicas to confirm. They are of the election alone: `tests/model/ledger` plays its own.

| left out | then | caught by | failing tests in all | random faults |
|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant."""

    mutant: Mutant
    problem: str
    failed: int
    explored: str

    @property
    def row(self) -> str:
        names = "<br>".join(f"`{test.partition('::')[2]}`" for test in self.mutant.tests)
        mutant = self.mutant
        return f"| {mutant.name} | {mutant.breaks} | {names} | {self.failed} | {self.explored} |\n"


def run_in(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the copy, which hides the installed package."""
    env = {**clean_environment(), "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    env["GIT_DIR"] = str(ROOT / ".git")  # some tests unpack an older release
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=170,
        check=False,
    )


def make_copy(copy: Path) -> None:
    """Copy what the tests need."""
    for name in ("celery_safe_leader", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    where = run_in(copy, "-c", "import celery_safe_leader as p; print(p.__file__)").stdout
    if not where.startswith(str(copy)):
        raise RuntimeError(f"the copy at {copy} is not what is imported, but {where}")


def read(report: Path) -> dict[str, str]:
    """Read which tests ran, and what those said that failed (not: broke in a fixture)."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - written by pytest
        failure = case.find("failure")
        said = "" if failure is None else f"{failure.get('message')}\n{failure.text}"
        file = (case.get("classname") or "").replace(".", "/") + ".py"
        found[f"{file}::{case.get('name')}"] = said
    return found


def judge(mutant: Mutant, said: dict[str, str]) -> str:
    """Tell what is wrong with the outcome; empty if the mutant was caught as it should be."""
    for test in mutant.tests:
        cases = [case for case in said if case.partition("[")[0] == test]
        if not cases:
            return f"{test} did not run"
        for case in cases:
            if not said[case]:
                return f"{case} did not fail"
            if mutant.reason not in said[case]:
                return f"{case} failed without saying {mutant.reason!r}:\n{said[case][:2000]}"
    return ""


def explore(copy: Path, mutant: Mutant) -> str:
    """Let random faults look for it."""
    if not mutant.of_election:
        return "–"
    done = run_in(copy, "-m", "tests.model.election.explorer", str(RUNS))
    seed = re.search(r"^seed=(\d+)", done.stdout, re.MULTILINE)
    return f"seed {seed[1]}" if done.returncode and seed else f"not in {RUNS} histories"


def examine(mutant: Mutant) -> Outcome:
    """Make one mutant and run the tests on it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        make_copy(copy)
        for patch in mutant.patches:
            patch.apply(copy)
        report = copy / "report.xml"
        done = run_in(
            *(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
            *(ELECTION if mutant.of_election else LEDGER),
        )
        said = read(report) if report.exists() else {}
        problem = judge(mutant, said) if said else f"no tests ran:\n{done.stdout[-2000:]}"
        failed = sum(bool(words) for words in said.values())
        return Outcome(mutant, problem, failed, explore(copy, mutant))


def check_original() -> None:
    """Run the same tests on an unchanged copy: they must pass there."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder)
        make_copy(copy)
        done = run_in(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", *ELECTION, *LEDGER)
        if done.returncode:
            raise SystemExit(f"the tests fail without any mutant:\n{done.stdout[-4000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("only", nargs="*", help="part of a mutant's name; the table is left alone")
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if all(word in m.name for word in arguments.only)]
    began = time.monotonic()
    check_original()
    outcomes = []
    with ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1))) as pool:
        for outcome in pool.map(examine, chosen):
            outcomes.append(outcome)
            state = "NOT CAUGHT: " + outcome.problem if outcome.problem else "caught"
            print(f"{outcome.mutant.name}: {state}; random faults: {outcome.explored}", flush=True)
    escaped = sum(bool(outcome.problem) for outcome in outcomes)
    if not escaped and not arguments.only:
        TABLE.write_text(_HEAD + "".join(o.row for o in outcomes), encoding="utf-8")
    print(f"{len(outcomes)} mutants, {escaped} not caught; {time.monotonic() - began:.0f} s")
    if escaped or not outcomes:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
