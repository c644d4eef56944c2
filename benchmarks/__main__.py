"""Run the measurements: ``python -m benchmarks [PART …]``, all parts by default."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks import election

PARTS: dict[str, Callable[[], None]] = {
    "election": election.main,
}
"""A part prints its figures, and starts and ends whatever it needs."""


def main() -> None:
    """Run the parts that were named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS))
    named = parser.parse_args().part or list(PARTS)
    unknown = sorted(set(named) - set(PARTS))
    if unknown:
        parser.error(f"no part {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    for name in named:
        print(f"== {name}")
        PARTS[name]()


if __name__ == "__main__":
    main()
