"""Run the measurements: ``python -m benchmarks [--quick] [PART …]``, all parts by default."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import dispatch, election, idle, lateness


def _election(*, quick: bool = False) -> None:
    election.main()


PARTS: dict[str, Callable[..., None]] = {
    "election": _election,
    "dispatch": dispatch.main,
    "lateness": lateness.main,
    "wakeup": idle.wakeup,
    "startup": idle.startup,
    "memory": idle.memory,
}
"""A part prints its figures, and starts and ends whatever it needs. ``quick``: with less load."""


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a short form: smaller loads")
    given = parser.parse_args()
    named = given.part or list(PARTS)
    unknown = sorted(set(named) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    for name in named:
        print(f"== {name}", flush=True)
        PARTS[name](quick=given.quick)


if __name__ == "__main__":
    main()
