"""How long a beat with many entries takes to answer ``/metrics``, beside one with few."""

from __future__ import annotations

import http.client
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from celery_safe_leader import LeaderScheduler
from tests.support.candidates.resigned import leave_resigned
from tests.support.network.ports import free_port
from tests.support.servers import Server

__all__ = ["main"]

_ENTRIES = (100, 100_000)
_MOST_MS = 5.0
_TIMES = 200


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        took = {each: _measure(server, Path(folder), each) for each in _ENTRIES}
    report.at_most(
        f"one answer of /metrics, {_ENTRIES[-1]:,} entries",
        1000 * took[_ENTRIES[-1]], _MOST_MS, " ms",
        beside=f"with {_ENTRIES[0]}: {1000 * took[_ENTRIES[0]]:.2g} ms",
    )  # fmt: skip


def _measure(server: Server, folder: Path, entries: int) -> float:
    """Return the median of the seconds of an answer, while nothing is due."""
    rig, port = Rig(server.url, server.url, folder), free_port()
    rig.clear()
    app = rig.app(entries, time.time() + 3600, warm_up=False)
    app.conf.leader_http = f"127.0.0.1:{port}"
    leave_resigned(server.url, app.conf.leader_key or app.main, "beat")
    with closing(LeaderScheduler(app=app, lazy=False)) as scheduler:
        until = time.monotonic() + 120
        while not scheduler.is_leader or not _answers(port):
            scheduler.tick()
            if time.monotonic() > until:
                raise RuntimeError("it does not lead, or does not answer")
        scheduler.tick()
        return median(_ask(port) for _ in range(_TIMES))


def _answers(port: int) -> bool:
    try:
        return _ask(port) > 0
    except OSError:
        return False


def _ask(port: int) -> float:
    began = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        client.request("GET", "/metrics")
        answer = client.getresponse()
        if answer.status != 200 or not answer.read():
            raise RuntimeError(f"/metrics answers {answer.status}")
    return time.perf_counter() - began
