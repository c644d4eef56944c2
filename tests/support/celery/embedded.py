"""Real ``celery worker -B`` processes, and one worker beside them that runs what they send.

The workers with a beat take no message of the periodic tasks, so that a run that a killed one had
taken from the broker cannot be mistaken for one that was not sent.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery

from tests.support.celery.chaos import Execution, Fleet
from tests.support.processes import Child, wait_until

__all__ = ["SCHEDULER", "Crew", "WorkerWithBeat", "alive", "parent_of"]

SCHEDULER = "celery_safe_leader.LeaderScheduler"
_BEAT = re.compile(r"This embedded beat \(pid (\d+)\) follows")
_STANDING = ("dispatches now", "embedded beat stands by", "Demoted: ")


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["X", "0"]


def alive(pid: int) -> bool:
    """Tell whether a process runs. One that nobody has asked for its end runs no more."""
    return _stat(pid)[0] not in ("Z", "X")


def parent_of(pid: int) -> int:
    """Return the pid of the process that started another."""
    return int(_stat(pid)[1])


class WorkerWithBeat:
    """A ``celery worker -B`` process."""

    def __init__(self, child: Child) -> None:
        self.child = child

    @property
    def leads(self) -> bool:
        """Whether its beat dispatched when it last spoke."""
        said = [line for line in self.child.lines if any(word in line for word in _STANDING)]
        return self.child.running and bool(said) and _STANDING[0] in said[-1]

    @property
    def beats(self) -> list[int]:
        """Pids of all beats that it started."""
        return [int(found) for found in _BEAT.findall(self.child.output)]

    def wait_beat(self, count: int = 1) -> int:
        """Wait for the pid of its first, second, … beat."""
        wait_until(lambda: len(self.beats) >= count, 30, lambda: self.child.output)
        return self.beats[count - 1]


class Crew(Fleet):
    """Workers with beats, and the worker that runs what they send."""

    def __init__(
        self,
        folder: Path,
        server: str,
        steps: dict[str, float],
        *,
        broker: str = "",
        more: str = "",
        **settings: Any,
    ) -> None:
        self.queue = f"test-{uuid.uuid4().hex[:8]}"
        super().__init__(
            folder,
            broker or server,
            server,
            steps,
            more=more,
            leader_queue=f"{self.queue}.leader",
            task_default_queue=self.queue,
            beat_scheduler=SCHEDULER,
            broker_connection_retry_on_startup=True,
            **settings,
        )
        self.crew: list[WorkerWithBeat] = []
        self.start_worker("--no-leader", "-c", "1", "-P", "solo")

    def start_crew(self, count: int, *arguments: str) -> None:
        """Start workers with beats, and wait until all are ready."""
        for _ in range(count):
            child = self.start_worker("-B", "-c", "1", "-Q", f"{self.queue}.other", *arguments)
            self.crew.append(WorkerWithBeat(child))
        self.wait_working()
        for worker in self.crew:
            worker.wait_beat()

    def dispatching(
        self, timeout: float = 30.0, *, other_than: Sequence[WorkerWithBeat] = ()
    ) -> WorkerWithBeat:
        """Wait until the beat of one dispatches."""

        def leading() -> WorkerWithBeat | None:
            return next((w for w in self.crew if w.leads and w not in other_than), None)

        def standing() -> str:
            return "\n\n".join(worker.child.output for worker in self.crew)

        found = wait_until(leading, timeout, standing)
        assert found is not None
        return found

    def wait_run(self, since: float, *, other_than: int = 0, timeout: float = 30.0) -> Execution:
        """Wait for the first run since a moment of ``time.time()`` under another token."""

        def first() -> Execution | None:
            runs = [r for r in self.executions() if r.began >= since and r.token != other_than]
            return min(runs, key=lambda run: run.began, default=None)

        found = wait_until(first, timeout, lambda: "\n\n".join(w.child.output for w in self.crew))
        assert found is not None
        return found

    def call(self, name: str) -> None:
        """Call a leader-only task."""
        with Celery(broker=self.broker, set_as_current=False) as app:
            app.send_task(name, queue=f"{self.queue}.leader")

    def token(self) -> int:
        """Wait for a run that is sent from now on, and return its token."""
        return self.wait_run(time.time()).token

    def close(self) -> None:
        """End all, and leave nothing at the broker."""
        super().close()
        with Celery(broker=self.broker).connection_for_write() as connection:
            channel = connection.default_channel
            for name in (self.queue, f"{self.queue}.other", f"{self.queue}.leader"):
                channel.queue_delete(name)
                channel.exchange_delete(name)

    def __enter__(self) -> Crew:
        return self
