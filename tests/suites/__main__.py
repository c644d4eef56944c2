"""Run each suite over each class of ours; status 1 if anything is not as in the table.

``python -m tests.suites [--print] [SUITE …]``. Each suite comes from the source distribution of its
release, which pip downloads; it runs in an environment of its own under ``.matrix/``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.matrix.environments import FOLDER, ROOT, prepare
from tests.matrix.rows import CELERY, Row
from tests.suites.table import PAGE, Found, differences, read_tables, verdict_of
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

HERE = Path(__file__).resolve().parent
LIMIT = 900
"""Seconds for one run of a suite."""


@dataclass(frozen=True)
class Suite(Row):
    """One suite, over one class."""

    package: str = ""
    """Whose suite it is, as pip wants it: ``name==version``."""
    kind: str = ""
    """Which class is put in the place of theirs: see ``leader_suites.py``."""
    tests: str = ""
    """What of it is run."""

    @property
    def requirements(self) -> list[str]:
        """For pip."""
        return [f"celery[redis]=={self.celery}", f"kombu[redis]=={self.kombu}", *NEEDED]

    @property
    def environment(self) -> Suite:
        """What has the name of its environment, which suites of the same Celery share."""
        return replace(self, name=f"suites-{self.celery}")


def _of_celery(release: str, kind: str) -> Suite:
    celery, kombu = CELERY[release]
    test = "t/unit/app/test_beat.py"
    return Suite(
        f"celery-{release}-{kind}", celery, kombu, "", package=f"celery=={celery}", kind=kind,
        tests=test,
    )  # fmt: skip


_NEWEST = CELERY["5.7"]
_DJANGO = "django-celery-beat==2.9.0"
_REDBEAT = "celery-redbeat==2.4.2"
NEEDED = (
    "django<6", "ephem", "fakeredis[lua]", "pytest<9", "pytest-django", "pytest-timeout", "pytz",
    _DJANGO, _REDBEAT,
)  # fmt: skip
"""What the suites want besides Celery."""
SUITES = (
    _of_celery("5.7", "scheduler"),
    _of_celery("5.7", "mixin"),
    _of_celery("5.4", "scheduler"),
    _of_celery("5.4", "mixin"),
    Suite("django-celery-beat", *_NEWEST, "", package=_DJANGO, kind="database", tests="t/unit"),
    Suite("redbeat", *_NEWEST, "", package=_REDBEAT, kind="redbeat", tests="tests"),
)


def sources(suite: Suite) -> Path:
    """Return a folder with the tests of a release, and what configures them."""
    home = FOLDER / "suites" / suite.package.replace("==", "-")
    if (home / "complete").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    downloaded = home / "sdist"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", ":all:", "--dest", str(downloaded), suite.package]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    [archive] = downloaded.glob("*.tar.gz")
    folder, configured = suite.tests.partition("/")[0], ("setup.cfg", "pyproject.toml")
    with tarfile.open(archive) as packed:
        for member in packed.getmembers():
            # Without the package itself: the one that is installed is meant.
            _, _, member.name = member.name.partition("/")
            if member.name in configured or member.name.startswith(f"{folder}/"):
                packed.extract(member, home, filter="data")
    (home / "complete").touch()
    return home


STOCK, PLAIN, READY = "stock", "plain", "ready"


def play(suite: Suite, python: Path, url: str, scheduler: str) -> dict[str, Any]:
    """Run a suite once; return what came of each test.

    Args:
        suite: The suite.
        python: Of its environment.
        url: Of a Redis.
        scheduler: Theirs, or ours that stands by or leads.
    """
    home = sources(suite)
    report = home / f"{suite.name}-{scheduler}.json"
    report.unlink(missing_ok=True)
    command = [str(python), "-m", "pytest", "-q", "-p", "leader_suites", "-p", "no:cacheprovider"]
    command += ["-p", "no:randomly", "-W", "default", suite.tests]
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE / "substitutes"),
        "LEADER_SUITE_KIND": "none" if scheduler == STOCK else suite.kind,
        "LEADER_SUITE_URL": url,
        "LEADER_SUITE_READY": f"{scheduler == READY:d}",
        "LEADER_SUITE_REPORT": str(report),
        "LEADER_SUITE_RESIGNED": str(ROOT / "tests/support/candidates/resigned.py"),
    }
    log = FOLDER / f"suite-{suite.name}-{scheduler}.log"
    with log.open("w") as output:
        subprocess.run(
            command, cwd=home, env=environment, stdout=output, stderr=output, timeout=LIMIT
        )
    if not report.exists():
        raise RuntimeError(f"{suite.name} wrote no report: see {log}")
    found: dict[str, Any] = json.loads(report.read_text())
    if not found:
        raise RuntimeError(f"{suite.name}: no test was collected: see {log}")
    return {name.rpartition("/")[2]: outcome for name, outcome in found.items()}


def run(suite: Suite, url: str) -> list[Found]:
    """Run a suite over their class, and over ours as it is made and when it leads."""
    python = prepare(suite.environment)
    played = [play(suite, python, url, scheduler) for scheduler in (STOCK, PLAIN, READY)]
    names = {test: None for each in played for test in each}
    return [Found(test, *(each.get(test, {}) for each in played)) for test in names]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.suites", description=__doc__)
    parser.add_argument("suites", nargs="*", help=", ".join(suite.name for suite in SUITES))
    parser.add_argument("--print", action="store_true", help="print rows for the table")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.suites) - {suite.name for suite in SUITES}:
        parser.error(f"no suite is called {', '.join(sorted(unknown))}")
    tables = read_tables(PAGE.read_text()) if PAGE.exists() else {}
    failed = []
    with Server(installed_kinds()[0]) as server:
        for suite in SUITES:
            if chosen.suites and suite.name not in chosen.suites:
                continue
            seen = run(suite, server.url)
            counts = Counter(verdict_of(found) for found in seen)
            told = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
            wrong = differences(tables.get(suite.name, {}), seen)
            print(f"{suite.name}: {len(seen)} tests: {told}", flush=True)
            if chosen.print:
                for found in seen:
                    why = found.ready.get("why") or found.plain.get("why") or [""]
                    print(f"| `{found.test}` | {verdict_of(found)} | {why[0][:200]} |")
            elif wrong:
                failed.append(suite.name)
                print("\n".join(f"    {line}" for line in wrong))
    if failed:
        print(f"\nNOT AS IN THE TABLE: {', '.join(failed)}; their output is in {FOLDER}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
