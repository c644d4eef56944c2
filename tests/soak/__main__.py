"""Strike the leader for minutes and count its messages where they arrive: ``make soak``.

Three beats, whose leader is killed, stopped for longer than its lease or told to end every five
seconds, and two workers that are left alone. What was found is printed, and kept in a file.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from tests.soak.scenes import play_chaos, play_upgrade
from tests.soak.verdict import TRANSACTIONAL, WAYS, Verdict
from tests.support.processes.child import ROOT
from tests.support.servers.kinds import all_kinds

FOLDER = ROOT / ".soak"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, help="of the faults; a random one if not given")
    parser.add_argument(
        "--seconds", type=float, help="for how long: 600 if not given, 300 for an upgrade"
    )
    scene = parser.add_mutually_exclusive_group()
    scene.add_argument(
        "--way",
        choices=WAYS,
        default=TRANSACTIONAL,
        help="which way the runs have to go; write-ahead is enforced, and must double something",
    )
    scene.add_argument(
        "--upgrade", action="store_true", help="from an older release and back, under chaos"
    )
    parser.add_argument("--server", choices=all_kinds(), default="", help="kind of the server")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for the file with the outcome")
    return parser


def versions() -> dict[str, str]:
    """Return the versions of what is tested, and of what it runs on."""
    names = ("celery-safe-leader", "celery", "kombu", "redis")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"commit": _commit(), "python": platform.python_version(), **found}


def _commit() -> str:
    """Name what is checked out, ``-dirty`` if it was changed; empty outside of a clone."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _play(given: argparse.Namespace) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        if given.upgrade:
            return play_upgrade(Path(name), given.seed, given.seconds, kind=given.server)
        return play_chaos(Path(name), given.seed, given.seconds, given.way, kind=given.server)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def _print(verdict: Verdict, file: Path) -> None:
    for name, value in verdict.counts.items():
        print(f"{name:>32}  {value}")
    for line in verdict.problems[:50]:
        print(f"PROBLEM: {line}")
    if verdict.void:
        print(f"VOID: {verdict.void}")
    print(f"{'passed' if verdict.passed else 'FAILED'}; kept in {file}")


def main() -> int:
    """Play one scene, print and keep what was found, and return the exit status."""
    given = _parser().parse_args()
    given.seed = random.randrange(10**6) if given.seed is None else given.seed
    given.seconds = given.seconds or (300.0 if given.upgrade else 600.0)
    scene = "upgrade" if given.upgrade else given.way
    given.folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    print(f"{scene}, {given.seconds:.0f} s, seed {given.seed}", flush=True)
    began, start = time.monotonic(), _now()
    verdict = _play(given)
    file = given.folder / f"{scene}-{given.seed}-{start[:19].replace(':', '')}.json"
    kept = {
        "scene": scene,
        "seed": given.seed,
        "command": shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]),
        "start": start,
        "end": _now(),
        "seconds": round(time.monotonic() - began, 1),
        "versions": {**versions(), **verdict.server},
        "passed": verdict.passed,
        "void": verdict.void,
        "problems": verdict.problems,
        "counts": verdict.counts,
    }
    file.write_text(json.dumps(kept, indent=2) + "\n")
    _print(verdict, file)
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
