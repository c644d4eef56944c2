"""What a receiver of ``run_published`` costs dispatching: a beat with and without one, in turn."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders import LEADER
from benchmarks.dispatch import Rates
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from celery_safe_leader.signals import run_published
from tests.support.servers import Server

__all__ = ["main"]

_LOAD = 1_000
_LEAST = 0.9
_TURNS = 9


@contextlib.contextmanager
def _told(stage: Rig, entries: int, due: float) -> Iterator[Any]:
    heard: list[Any] = []

    def receive(**fields: Any) -> None:
        heard.append(fields["task_id"])

    run_published.connect(receive)
    try:
        with LEADER.session(stage, entries, due) as send:
            yield send
    finally:
        run_published.disconnect(receive)


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    told = dataclasses.replace(LEADER, name="with a receiver", session=_told)
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        rates = Rates(Rig(server.url, server.url, Path(folder)), yardstick=LEADER.name)
        for _ in range(1 if quick else _TURNS):
            rates.turn((_LOAD,), (LEADER, told))
        report.at_least(
            f"dispatches with a receiver of run_published, {_LOAD:,} due",
            rates.ratio(told.name, _LOAD), _LEAST, " × without", beside=rates.beside(_LOAD),
        )  # fmt: skip
