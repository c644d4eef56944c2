"""What beats and workers send while nothing is due, as MONITOR shows it."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Report
from benchmarks.stage import server_kind
from celery_safe_leader._store.lua import load
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.monitor import Monitor

__all__ = ["measure"]

_MONTH = 30 * 24 * 60  # minutes
_TTL, _WAIT = 10.0, 2.0  # the defaults
_BEATS, _WORKERS = 3, 2
_SCHEDULE = '{"yearly": {"task": "shop.work", "schedule": 365 * 86400.0}}'
_INSTALL = "\nimport celery_safe_leader\ncelery_safe_leader.install(app)\n"
_RENEW = load("celery_safe_leader._store", "renew", "epoch", "record").sha


def measure(report: Report, *, quick: bool) -> None:
    """Print what three beats and two workers send, and what that makes in a month."""
    seconds = 30.0 if quick else 120.0
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(server_kind()) as election,
        Server(server_kind()) as broker,
    ):
        children = Children()
        try:
            _start(children, Path(folder), election, broker)
            ours, theirs = Monitor(election), Monitor(broker)
            time.sleep(seconds)
            sent, beside = list(ours.commands), len(theirs.commands)
        finally:
            children.close()
    minutes = seconds / 60
    counted = Counter(_who(words) for words in sent)
    rate = {who: number / minutes for who, number in counted.items()}
    # Whether there is a beat in a worker is asked by leader and standbys alike.
    each_worker = rate.get("workers", 0.0) / _WORKERS
    rows = [
        ("a leading beat", rate["leading beat"]),
        ("a standby beat", rate["standby beats"] / (_BEATS - 1)),
        ("a leading worker", rate["leading worker"] + each_worker),
        ("a standby worker", rate["standby workers"] / (_WORKERS - 1) + each_worker),
        (f"{_BEATS} beats and {_WORKERS} workers", len(sent) / minutes),
        ("beside: those of Celery and kombu, at the broker", beside / minutes),
    ]
    report.table(
        (f"nothing due, ttl {_TTL:g} s, wait {_WAIT:g} s", "commands a minute", "a month"),
        [(who, f"{each:,.0f}", f"{each * _MONTH:,.0f}") for who, each in rows],
    )
    # One renewal and one blocking read in each third of the ttl.
    least = 2 * 60 / (_TTL / 3)
    report.at_most("commands a minute of a leading beat at rest", rows[0][1], least + 1)


def _start(children: Children, folder: Path, election: Server, broker: Server) -> None:
    """Start everything, and wait until what belongs to the start is over."""
    settings = {"leader_url": election.url, "leader_ttl": _TTL, "leader_wait": _WAIT}
    write_app(folder, broker.url, _SCHEDULE, more=_INSTALL, **settings)
    beats = [Beat(children, folder, name=f"beat {number}") for number in range(_BEATS)]
    env = {"PYTHONPATH": str(folder)}
    program = ("celery", "-A", "app", "worker", "-P", "solo", "--loglevel", "INFO")
    workers = [
        children.module(*program, "-n", f"w{number}@%h", env=env, cwd=folder, name=f"w{number}")
        for number in range(_WORKERS)
    ]
    leader_of(lambda: beats, 60).child.wait_for_line("Loaded the ledger")
    wait_until(lambda: any("Elected leader" in worker.output for worker in workers), 60)
    time.sleep(_TTL)


def _who(words: Sequence[str]) -> str:
    """Return whose command this is, by its key and by what it does."""
    role = "beat" if any(":beat:" in word for word in words) else "worker"
    if _RENEW in words or any(word.endswith((":ask", ":changes")) for word in words):
        return f"leading {role}"
    if any(word.endswith((":lease", ":wake")) for word in words):
        return f"standby {role}s"
    return f"{role}s"
