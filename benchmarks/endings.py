"""Handovers of a beat that gets two signals in a row, beside those after a single one."""

from __future__ import annotations

import itertools
import signal
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Report
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.inbox import Inbox
from tests.support.processes import Children
from tests.support.servers import Server, installed_kinds

__all__ = ["main"]

_SCHEDULE = """{
    f"tick-{number}": {"task": "shop.work", "schedule": 0.1, "kwargs": {"entry": "tick"}}
    for number in range(10)
} | {
    f"idle-{number}": {"task": "shop.work", "schedule": 1e7, "kwargs": {"entry": "idle"}}
    for number in range(100)
}"""
_LIMIT = 500
"""Milliseconds."""


class _Relay:
    """A leader and a standby, of which the first is ended again and again."""

    def __init__(self, folder: Path, server: Server, inbox: Inbox, children: Children) -> None:
        self._folder, self._inbox, self._children = folder, inbox, children
        # Takeovers without a resignation would take the ttl.
        write_app(folder, server.url, _SCHEDULE, leader_ttl=10.0, leader_wait=1.0)
        leave_resigned(server.url, "shop", "beat")
        self._beats: list[Beat] = []
        self._start()
        self._leader = leader_of(lambda: self._beats)
        self._start()

    def _start(self) -> None:
        name = f"beat {len(self._beats)}"
        self._beats.append(Beat(self._children, self._folder, "--pidfile=", name=name))

    def pause(self, *signals: signal.Signals, apart: float = 0.0) -> float:
        """End the leader; return the longest time without a message around it, in milliseconds."""
        old = self._leader
        self._beats[-1].wait_standing_by()
        began = time.monotonic()
        self._inbox.wait_for(10, since=began, pid=old.pid)
        old.note_end()
        for number in signals:
            old.child.signal(number)
            time.sleep(apart)
        self._leader = leader_of(lambda: self._beats, other_than=old)
        self._inbox.wait_for(10, since=began, pid=self._leader.pid)
        old.child.wait()
        self._start()
        times = sorted(sent.at for sent in self._inbox.sent(since=began))
        return 1000 * max(later - earlier for earlier, later in itertools.pairwise(times))


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    turns = 5 if quick else 50
    children = Children()
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(installed_kinds()[0]) as server,
        Inbox(server.url) as inbox,
    ):
        try:
            relay = _Relay(Path(folder), server, inbox, children)
            single = [relay.pause(signal.SIGTERM) for _ in range(max(3, turns // 5))]
            double = []
            for turn in range(turns):
                apart = 0.0005 + 0.0035 * turn / max(1, turns - 1)
                double.append(relay.pause(signal.SIGINT, signal.SIGTERM, apart=apart))
        finally:
            children.close()
    report.say(f"one signal: {_listed(single)}")
    report.say(f"SIGINT, then SIGTERM 0.5 to 4 ms later, {turns} times: {_listed(double)}")
    report.say(f"median: {median(single):.0f} ms with one signal, {median(double):.0f} ms with two")
    report.at_most("two signals: longest pause between runs", max(double), _LIMIT, " ms")


def _listed(times: list[float]) -> str:
    return " ".join(f"{value:.0f}" for value in sorted(times)) + " ms"
