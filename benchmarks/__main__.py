"""Run the measurements: ``python -m benchmarks [--quick | --full] [PART …]``, by default all."""

from __future__ import annotations

import argparse
import os
import time
import traceback
from typing import Protocol

from benchmarks import (
    changes,
    confirms,
    dispatch,
    election,
    endings,
    handover,
    idle,
    lateness,
    older,
    operations,
    overdue,
    own_way,
    presence,
    receivers,
    scrapes,
    scripts,
    standbys,
)
from benchmarks.report import Report


class _Part(Protocol):
    """Prints its figures, and starts and ends whatever it needs."""

    def __call__(self, report: Report, *, quick: bool, full: bool) -> None: ...


PARTS: dict[str, _Part] = {
    "dispatch": dispatch.main,
    "scripts": scripts.main,
    "overdue": overdue.main,
    "own-way": own_way.main,
    "older": older.main,
    "confirms": confirms.main,
    "lateness": lateness.main,
    "idle": idle.main,
    "election": election.main,
    "changes": changes.main,
    "endings": endings.main,
    "handover": handover.main,
    "standbys": standbys.main,
    "presence": presence.main,
    "operations": operations.main,
    "receivers": receivers.main,
    "scrapes": scrapes.main,
}


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="3 minutes: one turn, smaller loads")
    parser.add_argument("--full", action="store_true", help="with peers that need minutes")
    given = parser.parse_args()
    named = given.part or list(PARTS)
    unknown = sorted(set(named) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    report, start, failed = Report(), time.monotonic(), 0
    for name in named:
        began, load = time.monotonic(), os.getloadavg()[0]
        report.say(f"\n== {name}\n")
        try:
            PARTS[name](report, quick=given.quick, full=given.full)
        except Exception as exc:  # the other parts have their figures all the same
            traceback.print_exc()
            report.left_out(name, f"failed: {exc!r}")
            failed += 1
        # What is measured makes a load of 1 to 2 itself.
        report.say(
            f"({name}: {time.monotonic() - began:.0f} s; load {load:.1f} before, "
            f"{os.getloadavg()[0]:.1f} after)"
        )
    report.say("\n== goals\n")
    report.goals()
    report.machine()
    report.say(f"{time.monotonic() - start:.0f} s in all")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
