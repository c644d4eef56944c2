"""A beat that leads for a while. Run as a process of its own, also with another release."""

from __future__ import annotations

import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.phase import ENTRIES, interval
from benchmarks.stage import Rig
from celery_safe_leader import LeaderScheduler

_AFTER = 0.5
"""Seconds after the last moment."""


def _lead(stage: Rig, start: float, end: float) -> None:
    app = stage.app(ENTRIES, start, warm_up=False)
    for number, entry in enumerate(app.conf.beat_schedule.values()):
        entry["schedule"] = float(interval(number))
        entry["last_run_at"] = datetime.fromtimestamp(start, timezone.utc)
    scheduler = LeaderScheduler(app=app, lazy=False)
    try:
        while time.time() < end + _AFTER:
            scheduler.tick()
    finally:
        scheduler.close()


if __name__ == "__main__":
    broker, state, queue, start, end = sys.argv[1:]
    _lead(Rig(broker, state, Path(), queue), float(start), float(end))
