"""How late 1,000 entries arrive at the broker, and whether any run is missing."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import redis

from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from celery_safe_leader import LeaderScheduler
from tests.support.servers import Server

__all__ = ["main"]

_ENTRIES = 1_000
_WARM_UP = 5  # seconds, for the election


def _interval(number: int) -> int:
    return number % 60 + 1


def _read(url: str, until: float) -> None:
    """Take messages off the queue; print when each was in it and what it covers."""
    arrived: list[tuple[float, bytes]] = []
    with redis.Redis.from_url(url) as client:
        while time.time() < until:
            taken = client.blmpop(0.5, 1, "celery", direction="RIGHT", count=1)
            if not taken:
                continue
            # What is in the queue now has arrived, however long it takes to read it out.
            there = client.llen("celery")
            at = time.time()
            arrived.append((at, taken[1][0]))
            if there:
                rest = client.lmpop(1, "celery", direction="RIGHT", count=there)
                arrived += [(at, raw) for raw in rest[1]]
    for at, raw in arrived:
        headers = json.loads(raw)["headers"]
        first, last = map(int, headers["leader_covers"].split(","))
        print(json.dumps([headers["argsrepr"], at, first, last]))


def _lead(stage: Rig, start: float, end: float) -> None:
    app = stage.app(_ENTRIES, start)
    del app.conf.beat_schedule["warm-up"]
    for number, entry in enumerate(app.conf.beat_schedule.values()):
        entry["schedule"] = float(_interval(number))
        entry["last_run_at"] = datetime.fromtimestamp(start, timezone.utc)
    stage.hold_election()
    scheduler = LeaderScheduler(app=app, lazy=False)
    try:
        while time.time() < end + 0.5:
            scheduler.tick()
    finally:
        scheduler.close()


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print the figures."""
    seconds = 12 if quick else 60
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        start = float(int(time.time()))
        end = start + _WARM_UP + seconds
        command = [sys.executable, "-m", "benchmarks.lateness", server.url, str(end + 2)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
            _lead(Rig(server.url, server.url, Path(folder)), start, end)
            out, _ = reader.communicate(timeout=30)
    late, coalesced = [], 0
    for line in out.splitlines():
        _, at, first, last = json.loads(line)
        if start + _WARM_UP < last / 1e6 <= end:
            late.append(1000 * (at - last / 1e6))
            coalesced += first != last
    expected = sum(
        (_WARM_UP + seconds) // _interval(number) - _WARM_UP // _interval(number)
        for number in range(_ENTRIES)
    )
    late.sort()
    half, nearly = (late[int(len(late) * part)] for part in (0.5, 0.99))
    report.say(
        f"{_ENTRIES:,} entries of 1 s to 60 s in phase, {seconds} s: median {half:.1f} ms, "
        f"99 % within {nearly:.1f} ms, at most {late[-1]:.1f} ms; {len(late)} of {expected} "
        f"runs, {coalesced} of them for more than one moment"
    )
    report.at_most("lateness of 1,000 entries in phase, median", half, 1, " ms")
    report.at_most("lateness of 1,000 entries in phase, 99 %", nearly, 25, " ms")
    report.at_most("lateness of 1,000 entries in phase: runs missing", expected - len(late), 0)


if __name__ == "__main__":
    _read(sys.argv[1], float(sys.argv[2]))
