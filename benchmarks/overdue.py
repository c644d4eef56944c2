"""Dispatches per second of entries that are overdue when a leader is elected, and never ran.

Nothing is ready then: the ledger does not know the entries, no message was composed, and there is
no connection to the broker. The loop that it is compared with sends the same entries, and starts
without a connection as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.contenders import OVERDUE, OVERDUE_LOOP
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.servers import Server

__all__ = ["main"]

_LOADS = (1_000, 10_000)
_LIMIT = 3.5


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        rates = Rates(Rig(server.url, server.url, Path(folder)), OVERDUE_LOOP.name)
        for _ in range(1 if quick else 5):
            rates.turn(_LOADS, (OVERDUE_LOOP, OVERDUE))
    rates.table(report, _LOADS, (OVERDUE_LOOP.name, OVERDUE.name))
    for entries in _LOADS:
        report.at_least(
            f"dispatches to Redis, {entries:,} overdue entries that never ran (aim: 5)",
            rates.ratio(OVERDUE.name, entries),
            _LIMIT,
            " × the loop",
            beside=rates.beside(entries),
        )
