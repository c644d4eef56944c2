"""Dispatches per second to RabbitMQ, where each message waits for the broker's confirmation."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

from benchmarks.contenders import LEADER, LOOP
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

__all__ = ["main"]

_GOAL = "dispatches to RabbitMQ with confirms, {:,} due"
_LIMIT = 0.9


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    # Short turns, and many: RabbitMQ is not equally fast for long.
    loads, turns = (1_000,), 1 if quick else 7
    urls = rabbitmq_urls()
    if not urls:
        report.left_out(_GOAL.format(loads[0]), "no RabbitMQ answers")
        return
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        stage = Rig(urls[0], server.url, Path(folder), f"bench-{uuid.uuid4().hex}")
        rates = Rates(stage)
        try:
            for _ in range(turns):
                rates.turn(loads, (LOOP, LEADER))
        finally:
            stage.clear()
    rates.table(report, loads, (LOOP.name, LEADER.name))
    for entries in loads:
        report.at_least(
            _GOAL.format(entries),
            rates.ratio(LEADER.name, entries),
            _LIMIT,
            " × the loop",
            beside=rates.beside(entries),
        )
