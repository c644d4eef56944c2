"""Dispatches per second with releases of kombu that cannot send many messages at once.

Each release has a virtual environment of its own in ``.bench``, made at the first run; the
measurement is this module, run by the Python in there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.contenders import LEADER, LOOP
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.servers import Server

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parents[1]
_STACKS = {
    "5.4": ("celery==5.4.*", "kombu==5.4.*", "redis==5.0.*"),
    "5.5": ("celery==5.5.*", "kombu==5.5.*", "redis==5.2.*"),
    "5.6": ("celery==5.6.*", "kombu==5.6.*", "redis==6.*"),
}
"""Releases that belong together."""
_GOAL = "dispatches to Redis with kombu {}, {:,} due"
_LIMIT = 1.0


def _python(release: str) -> Path:
    return _ROOT / ".bench" / f"kombu-{release}" / "bin" / "python"


def _install(release: str) -> None:
    """Make the environment of a release, unless it is there."""
    python = _python(release)
    folder = python.parents[1]
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, *_STACKS[release]], check=True, capture_output=True, text=True)
    (folder / "complete").touch()


def _measure(url: str, folder: str, loads: list[int]) -> list[list[object]]:
    """Measure each load once: contender, entries, rate, cost."""
    rates = Rates(Rig(url, url, Path(folder)))
    rates.turn(loads, (LOOP, LEADER))
    return [
        [name, entries, each[0], rates.costs[name, entries][0]]
        for (name, entries), each in rates.each.items()
    ]


def _turn(rates: Rates, release: str, loads: list[int]) -> None:
    stage = rates.stage
    command = [str(_python(release)), "-m", "benchmarks.older", stage.broker, str(stage.folder)]
    done = subprocess.run(
        [*command, *map(str, loads)], check=True, stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    for name, entries, rate, cost in json.loads(done.stdout.splitlines()[-1]):
        rates.each[name, entries].append(rate)
        rates.costs[name, entries].append(cost)


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    releases = ["5.6"] if quick else list(_STACKS)
    loads = [1_000] if quick else [3_000]
    usable = []
    for release in releases:
        if quick and not _python(release).exists():
            report.left_out(_GOAL.format(release, loads[0]), "not installed by a whole run yet")
            continue
        try:
            _install(release)
        except subprocess.CalledProcessError as exc:
            report.say(f"Installing kombu {release} failed:\n{exc.stderr}")
            report.left_out(_GOAL.format(release, loads[0]), "it could not be installed")
            continue
        usable.append(release)
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        rates = {release: Rates(Rig(server.url, server.url, Path(folder))) for release in usable}
        for _ in range(1 if quick else 3):
            for release, each in rates.items():
                _turn(each, release, loads)
    for release, each in rates.items():
        report.say(f"kombu {release}:")
        each.table(report, loads, (LOOP.name, LEADER.name))
        for entries in loads:
            report.at_least(
                _GOAL.format(release, entries),
                each.ratio(LEADER.name, entries),
                _LIMIT,
                " × the loop",
                beside=each.beside(entries),
            )


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], [int(each) for each in sys.argv[3:]])))
