"""What entries cost that are not due: waking, starting, memory."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from celery.beat import Scheduler

from benchmarks.contenders import Stage
from celery_safe_leader import LeaderScheduler
from tests.support.servers import Server

__all__ = ["memory", "startup", "wakeup"]

_ENTRIES = 10_000
_FAR = 3000.0  # seconds until anything is due


def _resident() -> int:
    """Return the bytes of memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmRSS")


def _lead(scheduler: LeaderScheduler) -> None:
    while not scheduler.is_leader:
        scheduler.tick()
    scheduler.tick()


def _measure(kind: str, url: str, folder: str, lead: float) -> dict[str, Any]:
    """Measure one scheduler in this process, after one with few entries has loaded all code."""
    stage = Stage(url, url, Path(folder))
    app = stage.app(_ENTRIES, time.time() + lead)
    gc.collect()
    before, began = _resident(), time.perf_counter()
    scheduler: Any
    if kind == "leader":
        scheduler = LeaderScheduler(app=app, lazy=False, max_interval=1e-6)
        began_leading = time.perf_counter()
        while not scheduler.is_leader:
            scheduler.tick()
        # The election is not the entries' cost.
        waited = time.perf_counter() - began_leading
    else:
        scheduler, waited = Scheduler(app=app, lazy=False, max_interval=1e-6), 0.0
    scheduler.tick()
    started = time.perf_counter() - began - waited
    if lead < _FAR:  # each runs once: what is remembered of messages counts, too
        time.sleep(lead + 0.5)
        ticks = 40 if kind == "leader" else 0
        for _ in range(ticks):
            scheduler.tick()
    gc.collect()
    grown = _resident() - before
    wakes = []
    for _ in range(300 if kind == "leader" else 20):
        began = time.perf_counter()
        scheduler.tick()
        wakes.append(time.perf_counter() - began)
    scheduler.close()
    return {"started": started, "grown": grown, "wake": median(wakes)}


def _in_process(kind: str, server: Server, lead: float) -> dict[str, Any]:
    """Measure in a process of its own, whose memory nothing else has touched."""
    server.client().flushall()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.idle", kind, server.url, folder, str(lead)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _both(lead: float = _FAR) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with Server("redis") as server:
        turns = [
            (_in_process("leader", server, lead), _in_process("stock", server, lead))
            for _ in range(3)
        ]
    return [leader for leader, _ in turns], [stock for _, stock in turns]


def wakeup(*, quick: bool = False) -> None:
    """Print what a tick costs when none of the entries is due."""
    ours, stock = _both()
    for name, figures in (("LeaderScheduler", ours), ("Scheduler", stock)):
        wake = median(each["wake"] for each in figures) * 1000
        print(f"waking, {_ENTRIES:,} entries, none due: {name:<16} {wake:8.3f} ms")


def startup(*, quick: bool = False) -> None:
    """Print how long it takes until all entries are known, and in the ledger."""
    ours, stock = _both()
    ready = [median(each["started"] for each in figures) for figures in (ours, stock)]
    print(
        f"start-up, {_ENTRIES:,} entries: LeaderScheduler {ready[0]:.3f} s (an empty ledger; "
        f"without the election), Scheduler {ready[1]:.3f} s"
    )


def memory(*, quick: bool = False) -> None:
    """Print how much a process grows by an entry."""
    ours, stock = _both()
    grown = [median(each["grown"] for each in figures) / _ENTRIES for figures in (ours, stock)]
    print(
        f"memory, {_ENTRIES:,} entries: LeaderScheduler {grown[0]:,.0f} bytes each, Scheduler ",
        end="",
    )
    print(f"{grown[1]:,.0f} bytes; the difference is {grown[0] - grown[1]:,.0f}")
    ran, _ = _both_after_a_run()
    print(
        f"  after each has run once: {median(ran) / _ENTRIES - grown[1]:,.0f} above that of stock"
    )


def _both_after_a_run() -> tuple[list[float], None]:
    with Server("redis") as server:
        return [float(_in_process("leader", server, 6.0)["grown"]) for _ in range(3)], None


if __name__ == "__main__":
    kind, url, folder, lead = sys.argv[1:]
    print(json.dumps(_measure(kind, url, folder, float(lead))))
