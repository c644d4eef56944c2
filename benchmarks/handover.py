"""Handovers and takeovers with many entries that are not due."""

from __future__ import annotations

import itertools
import re
import signal
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.report import Report
from benchmarks.stage import server_kind
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

__all__ = ["PATIENCE", "Relay", "main"]

_SCHEDULE = """{{
    f"tick-{{number}}": {{"task": "shop.work", "schedule": 0.1, "kwargs": {{"entry": "tick"}}}}
    for number in range(10)
}} | {{
    f"idle-{{number}}": {{"task": "shop.work", "schedule": 1e7, "kwargs": {{"entry": "idle"}}}}
    for number in range({idle})
}}"""
_YARDSTICK = 100
_SIZES = (_YARDSTICK, 10_000, 100_000)
_TTL, _WAIT = 2.0, 0.4
_LONGEST = 250
"""Milliseconds."""
PATIENCE = 300.0
_ORIGIN = re.compile(rb'"origin": "gen(\d+)@')


class Relay:
    """A leader and a standby that is warm, of which the first is ended again and again.

    Args:
        idle: Entries that are not due, beside ten of 0.1 s.
        cleanup: Ends all.
        settings: More for the app.
    """

    def __init__(self, idle: int, cleanup: ExitStack, **settings: float) -> None:
        self.idle = idle
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.server = cleanup.enter_context(Server(server_kind()))
        self._arrivals = _Arrivals(self.server)
        cleanup.callback(self._arrivals.close)
        self._children = Children()
        cleanup.callback(self._children.close)
        self._folder, schedule = folder, _SCHEDULE.format(idle=idle)
        given: dict[str, Any] = {"leader_ttl": _TTL, "leader_wait": _WAIT, **settings}
        write_app(folder, self.server.url, schedule, **given)
        leave_resigned(self.server.url, "shop", "beat")
        self.beats: list[Beat] = []
        self.start()
        self.leader = leader_of(lambda: self.beats, PATIENCE)
        self.leader.child.wait_for_line("Loaded the ledger", PATIENCE)
        self.start()

    def start(self) -> Beat:
        """Start a standby."""
        name = f"beat {len(self.beats)}"
        self.beats.append(Beat(self._children, self._folder, "--pidfile=", name=name))
        return self.beats[-1]

    def end(self, number: signal.Signals) -> tuple[float, str]:
        """End the leader.

        Returns:
            The longest time without a message around it, in milliseconds, and what the next
            leader says that it read.
        """
        old = self.leader
        self.beats[-1].child.wait_for_line("Copied the ledger", PATIENCE)
        began = time.monotonic()
        self._arrivals.wait_for(10, since=began, pid=old.pid)
        old.note_end()
        old.child.signal(number)
        self.leader = leader_of(lambda: self.beats, PATIENCE, other_than=old)
        self._arrivals.wait_for(10, since=began, pid=self.leader.pid)
        old.child.wait()
        told = self.leader.child.wait_for_line("Loaded the ledger").text
        times = [at for at, _ in self._arrivals.all if at >= began]
        self.start()
        longest = max(later - earlier for earlier, later in itertools.pairwise(times))
        return 1000 * longest, told.partition("Loaded the ledger of shop ")[2]


class _Arrivals:
    """When each message was in the queue, and who had sent it. Kombu's consumer would be slow."""

    def __init__(self, server: Server) -> None:
        self.all: list[tuple[float, int]] = []
        self._client: Any = server.client(decode_responses=False)
        self._closing = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, count: int, *, since: float, pid: int) -> None:
        def enough() -> bool:
            return sum(at >= since and sent_by == pid for at, sent_by in self.all) >= count

        wait_until(enough, PATIENCE)

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)

    def _read(self) -> None:
        while not self._closing:
            taken = self._client.brpop(["celery"], timeout=0.5)
            if taken:
                at, found = time.monotonic(), _ORIGIN.search(taken[1])
                assert found, taken
                self.all.append((at, int(found[1])))


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    turns = 1 if quick else 3
    sizes = _SIZES[:2] if quick else _SIZES
    with ExitStack() as cleanup:
        relays = [Relay(size, cleanup) for size in sizes]
        for what, number in (("SIGTERM", signal.SIGTERM), ("SIGKILL", signal.SIGKILL)):
            pauses: dict[int, list[float]] = {size: [] for size in sizes}
            for _ in range(turns):
                # In turns, so that whatever else the machine does comes upon all of them.
                for relay in relays:
                    pause, told = relay.end(number)
                    pauses[relay.idle].append(pause)
                    report.say(f"{what}, {relay.idle:,} idle: {pause:.0f} ms; loaded {told}")
            _compare(report, what, pauses)


def _compare(report: Report, what: str, pauses: dict[int, list[float]]) -> None:
    limit = float(_LONGEST)
    if what == "SIGKILL":
        limit += 1000 * (1.01 * _TTL + _WAIT)
    beside = f"{max(pauses[_YARDSTICK]):.0f} ms with {_YARDSTICK}"
    for size, each in pauses.items():
        goal = f"{what} with {size:,} idle entries: longest pause"
        report.at_most(goal, max(each), limit, " ms", beside=beside)
