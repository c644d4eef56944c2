"""What entries cost that are not due: waking, starting, memory; and what is sent meanwhile."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from benchmarks.report import Report
from benchmarks.rest import measure
from benchmarks.stage import Rig, server_kind
from celery_safe_leader import LeaderScheduler
from tests.support.servers import Server

__all__ = ["main"]

_ENTRIES = 10_000
_FAR = 3000.0  # seconds until anything is due
_RUN = 6.0  # seconds until everything is due, where that is measured


def _resident() -> int:
    """Return the bytes of memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def _start(kind: str, app: Celery) -> tuple[Any, float]:
    """Start a scheduler; return it with the seconds after which all entries were known."""
    began = time.perf_counter()
    if kind == "stock":
        scheduler = Scheduler(app=app, lazy=False, max_interval=1e-6)
        scheduler.tick()
        return scheduler, time.perf_counter() - began
    leader = LeaderScheduler(app=app, lazy=False, max_interval=1e-6)
    waited_from = time.perf_counter()
    while not leader.is_leader:
        leader.tick()
    waited = time.perf_counter() - waited_from  # the election is not the entries' cost
    leader.tick()
    return leader, time.perf_counter() - began - waited


def _measure(kind: str, url: str, folder: str, lead: float) -> dict[str, Any]:
    """Measure one scheduler in this process, after one with few entries has loaded all code."""
    stage = Rig(url, url, Path(folder))
    due = time.time() + lead
    stage.hold_election()
    with contextlib.closing(_start(kind, stage.app(10, due + _FAR))[0]) as scheduler:
        for _ in range(10):
            scheduler.tick()
    stage.clear()
    stage.hold_election()
    app = stage.app(_ENTRIES, due, warm_up=False)
    gc.collect()
    before = _resident()
    scheduler, started = _start(kind, app)
    with contextlib.closing(scheduler), stage.arrivals() as arrived:
        if lead < _FAR:  # each runs once: what is remembered of messages counts, too
            time.sleep(max(0.0, due - time.time()) + 0.5)
            while arrived() < _ENTRIES:
                scheduler.tick()
        gc.collect()
        grown = _resident() - before
        wakes = []
        for _ in range(300 if kind == "leader" else 20):
            began = time.perf_counter()
            scheduler.tick()
            wakes.append(time.perf_counter() - began)
    return {"started": started, "grown": grown / _ENTRIES, "wake": 1000 * median(wakes)}


def _in_process(kind: str, server: Server, lead: float = _FAR) -> dict[str, Any]:
    """Measure in a process of its own, whose memory nothing else has touched."""
    server.client().flushall()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.idle", kind, server.url, folder, str(lead)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print what 10,000 entries cost, and what beats and workers send while none is due."""
    turns = 1 if quick else 3
    ours, stock, after = [], [], []
    with Server(server_kind()) as server:
        for _ in range(turns):
            ours.append(_in_process("leader", server))
            stock.append(_in_process("stock", server))
            if not quick:
                after.append(_in_process("leader", server, _RUN))

    def middle(name: str, figures: list[dict[str, Any]]) -> float:
        return float(median(each[name] for each in figures))

    rows = [
        ["a tick", *(f"{middle('wake', each):.3f} ms" for each in (ours, stock))],
        ["start-up", *(f"{middle('started', each):.2f} s" for each in (ours, stock))],
        ["memory of an entry", *(f"{middle('grown', each):,.0f} bytes" for each in (ours, stock))],
    ]
    if after:
        rows.append(["… once each has run", f"{middle('grown', after):,.0f} bytes", ""])
    report.table((f"{_ENTRIES:,} entries, none due", "LeaderScheduler", "Scheduler"), rows)
    report.at_most("a tick with 10,000 entries, none due", middle("wake", ours), 0.1, " ms")
    slower = middle("started", ours) - middle("started", stock)
    report.at_most("start-up with 10,000 entries, above stock's", slower, 0.3, " s")
    larger = middle("grown", after or ours) - middle("grown", stock)
    report.at_most("memory of an entry, above stock's", larger, 2000, " bytes")
    measure(report, quick=quick)


if __name__ == "__main__":
    kind, url, folder, lead = sys.argv[1:]
    print(json.dumps(_measure(kind, url, folder, float(lead))))
