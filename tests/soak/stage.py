"""The server, the beats and the workers of a run of the soak, and the faults of the leader."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from tests.soak.monitor import Monitor
from tests.soak.verdict import WRITE_AHEAD
from tests.support.celery.chaos import Fleet
from tests.support.celery.leader_faults import LeaderFaults
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

__all__ = ["BEATS", "EVERY", "LIST", "TTL", "WORKERS", "SoakStage"]

BEATS = 3
WORKERS = 2
TTL = 1.0
"""Seconds."""
EVERY = 5.0
"""Seconds between two faults."""
LIST = "celery"
"""The broker's list that the workers read."""
_WAIT = 0.2
_TAKEN_OVER = 1.01 * TTL + 2 * _WAIT
"""Seconds within which a leader that was killed or stopped is followed by another."""
_STEPS = {f"entry-{index:02}": round(0.2 * 25 ** (index / 19), 3) for index in range(20)}
"""From 0.2 s to 5 s, each as much longer than the one before it."""
_RELEASE = """
import celery_safe_leader
print("RELEASE", celery_safe_leader.__file__, flush=True)
"""


class SoakStage(CleansUp):
    """All that takes part in a run. Nothing but the server and its MONITOR runs at first.

    Args:
        folder: For the app and what is executed.
        seed: Of the faults.
        way: With ``write-ahead`` the broker is another database of the server.
        install: Whether the workers have ``install(app)``.
        kind: Of the server; the preferred one of this machine if empty.
    """

    def __init__(
        self, folder: Path, seed: int, *, way: str = "", install: bool = False, kind: str = ""
    ) -> None:
        self.database = 1 if way == WRITE_AHEAD else 0
        with ExitStack() as stack:
            self.server = stack.enter_context(Server(kind or installed_kinds()[0]))
            self.monitor = stack.enter_context(Monitor(self.server))
            self.fleet = stack.enter_context(self._fleet(folder, install))
            self.faults = LeaderFaults(self.fleet, random.Random(seed), TTL, self._moment)
            self._cleanup = stack.pop_all()

    def _fleet(self, folder: Path, install: bool) -> Fleet:
        broker = f"{self.server.url.removesuffix('/0')}/{self.database}"
        return Fleet(
            *(folder, broker, self.server.url, _STEPS),
            install=install,
            more=_RELEASE,
            leader_ttl=TTL,
            leader_wait=_WAIT,
        )

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the server."""
        info = self.server.client().info("server")
        return {name: info[name] for name in ("redis_version", "valkey_version") if name in info}

    def start(self, *, release: Path | None = None) -> None:
        """Start workers and beats, and wait for a leader."""
        for _ in range(WORKERS):
            self.start_worker(release)
        self.fleet.wait_working()
        for _ in range(BEATS):
            self.fleet.start_beat(release=release)
        self.fleet.leader()

    def start_worker(self, release: Path | None) -> None:
        """Start a worker; see ``wait_working()`` of the fleet."""
        self.fleet.start_worker("-c", "1", release=release)

    def chaos(
        self,
        seconds: float,
        *,
        workers_stand: bool = False,
        after_fault: Callable[[float], None] = lambda passed: None,
    ) -> None:
        """Strike the leader again and again.

        Args:
            seconds: For how long.
            workers_stand: Stop the workers from before each fault until another leader has settled
                what was left, so that it finds published runs that no worker has accepted.
            after_fault: Called after each fault with the part of the time that has passed.
        """
        began = time.monotonic()
        while (until := time.monotonic() + EVERY) < began + seconds:
            with self._workers_standing() if workers_stand else nullcontext():
                self.faults.strike()
            after_fault((time.monotonic() - began) / seconds)
            self.faults.rest(until)

    def finish(self) -> int:
        """Let beats catch up and workers finish; return up to when all must have been served."""
        self.faults.wake_all()
        self.fleet.leader()
        for beat in self.fleet.beats:
            if not beat.ended:
                beat.wait_ready()  # SIGTERM would kill it while it still imports
        until = time.time_ns() // 1000
        with suppress(AssertionError):  # what was not served until now is counted as lost
            self.fleet.wait_served(until)
        self.fleet.stop_beats()
        self.fleet.wait_idle()
        self.monitor.finish()
        return until

    @contextmanager
    def _workers_standing(self) -> Iterator[None]:
        standing = [worker for worker in self.fleet.workers if worker.running]
        for worker in standing:
            worker.pause()
        try:
            yield
            time.sleep(_TAKEN_OVER)
        finally:
            for worker in standing:
                worker.resume()

    def _moment(self, choice: random.Random) -> None:
        """Wait for some moment, at times for that at which a message has come to its list."""
        at_a_message = choice.random() < 0.5
        time.sleep(choice.uniform(0.0, 1.0))
        if at_a_message:
            self.monitor.wait_for_message(1.0)
