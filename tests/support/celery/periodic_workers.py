"""Real ``celery worker`` processes that note each run, and messages as a leader sends them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery

from tests.support.processes import Child, Children, wait_until

__all__ = ["Run", "Workers", "read_runs", "write_worker_app"]

_APP = """\
import json, os, time
from celery import Celery, Task, chord
from celery.worker.strategy import default
from celery_safe_leader import install

RUNS = {runs!r}
app = Celery("shop", set_as_current=True)
app.conf.update({conf!r})
{install}

def note(task, what="ran"):
    request = task.request
    line = dict(
        task=task.name, what=what, id=request.id, retries=request.retries, pid=os.getpid(),
        publication=(request.headers or {{}}).get("leader_publication"),
        covers=(request.headers or {{}}).get("leader_covers"), at=time.monotonic(),
    )
    file = os.open(RUNS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\\n")
    os.close(file)

def own_strategy(task, app, consumer, **kwargs):
    return default(task, app, consumer, **kwargs)

class Own(Task):
    Strategy = "app:own_strategy"

@app.task(name="shop.work", bind=True)
def work(self, *args, **kwargs):
    note(self)
    return (self.request.headers or {{}}).get("leader_publication")

@app.task(name="shop.own", bind=True, base=Own)
def own(self):
    note(self)

@app.task(name="shop.slow", bind=True, acks_late=True, reject_on_worker_lost=True)
def slow(self, seconds):
    note(self, "began")
    time.sleep(seconds)
    note(self, "ended")

@app.task(name="shop.flaky", bind=True, max_retries=5)
def flaky(self, times, countdown=0.1):
    note(self)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)

@app.task(name="shop.replaced", bind=True)
def replaced(self):
    note(self)
    raise self.replace(work.si())

@app.task(name="shop.fan_out", bind=True)
def fan_out(self):
    note(self)
    chord([work.si(), work.si()])(body.si())

@app.task(name="shop.body", bind=True)
def body(self, *args):
    note(self)
"""


def write_worker_app(folder: Path, runs: Path, *, install: bool = True, **settings: Any) -> None:
    """Write ``app.py``: an app named "shop" whose tasks note their runs in a file."""
    source = _APP.format(runs=str(runs), conf=settings, install="install(app)" if install else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(source)


@dataclass(frozen=True)
class Run:
    """What a task noted."""

    task: str
    what: str
    id: str
    retries: int
    pid: int
    publication: str | None
    covers: str | None
    at: float
    """``time.monotonic()``, which all processes of a machine share."""


def read_runs(file: Path) -> list[Run]:
    """Return what was noted, oldest first."""
    # What comes after the last end of line is being written.
    *lines, _ = file.read_text().split("\n") if file.exists() else [""]
    return [Run(**json.loads(line)) for line in lines]


class Workers:
    """Workers of one queue, and what they ran.

    Args:
        children: Starts them.
        folder: For the apps.
        broker: URL.
        settings: For ``app.conf`` of every worker.
    """

    def __init__(self, children: Children, folder: Path, broker: str, **settings: Any) -> None:
        self._children = children
        self._folder = folder
        self._count = 0
        self._names: list[str] = []
        self.runs_file = folder / "runs.jsonl"
        self.broker = broker
        self.queue = f"work-{uuid.uuid4().hex[:12]}"
        self.settings = {
            "broker_url": broker,
            "task_default_queue": self.queue,
            "task_default_exchange": self.queue,
            "task_default_routing_key": self.queue,
            "broker_connection_retry_on_startup": True,
            "worker_prefetch_multiplier": 4,
            **settings,
        }
        self.app = Celery("shop", set_as_current=False)
        self.app.conf.update(self.settings)

    def start(
        self,
        *arguments: str,
        pool: str = "prefork",
        install: bool = True,
        ready: bool = True,
        env: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Child:
        """Start a worker and wait until it is ready.

        Args:
            arguments: More arguments of ``celery worker``.
            pool: Which kind.
            install: Whether its app has the package installed.
            ready: Whether to wait.
            env: More environment.
            settings: More for its ``app.conf``.
        """
        self._count += 1
        folder = self._folder / f"worker-{self._count}"
        every = {**self.settings, **(settings or {})}
        write_worker_app(folder, self.runs_file, install=install, **every)
        program = ["celery", "-A", "app", "worker", "-l", "INFO", "-P", pool, "-c", "1"]
        # On RabbitMQ the queues of a name stay for a moment after a worker was killed.
        name = f"{self.queue}-{self._count}@here"
        self._names.append(name)
        quiet = ["--without-gossip", "--without-mingle", "-n", name]
        environment = {"PYTHONPATH": str(folder), "C_FORCE_ROOT": "1", **(env or {})}
        child = self._children.module(
            *program, *quiet, *arguments, env=environment, cwd=folder, name=name
        )
        if ready:
            child.wait_for_line(f"{name} ready.", 30)
        return child

    def send(
        self,
        occurrence: str,
        publication: str,
        task: str = "shop.work",
        *args: Any,
        key: str = "shop",
        **options: Any,
    ) -> None:
        """Send a message as the leading beat does."""
        headers = {
            "leader_election": key,
            "leader_occurrence": occurrence,
            "leader_publication": publication,
            "leader_token": 7,
            "leader_covers": "1,2",
        }
        self.app.send_task(task, args, task_id=occurrence, headers=headers, **options)

    def runs(self, task: str = "", occurrence: str = "") -> list[Run]:
        """Return what was noted, oldest first: all, or of a task, or of an occurrence."""
        every = read_runs(self.runs_file)
        return [run for run in every if task in ("", run.task) and occurrence in ("", run.id)]

    def wait_for_runs(
        self, count: int, task: str = "", timeout: float = 30.0, *, occurrence: str = ""
    ) -> list[Run]:
        """Wait until so many were noted."""

        def enough() -> list[Run]:
            found = self.runs(task, occurrence)
            return found if len(found) >= count else []

        return wait_until(enough, timeout, lambda: f"{count} runs; there are {self.runs()}")

    def flush(self) -> None:
        """Wait until all that was sent before has ended; needs one worker of one task at a time.

        It takes messages in order, so an ordinary one that ran marks the end of the others. Then
        its main process is asked: stopped before it knows, it would leave that one unacknowledged.
        """
        mark = str(uuid.uuid4())
        self.app.send_task("shop.work", task_id=mark)
        self.wait_for_runs(1, occurrence=mark)
        wait_until(self._idle, 30, "a worker that knows of the end of its tasks", interval=0.02)

    def _idle(self) -> bool:
        inspect = self.app.control.inspect(self._names, timeout=3, limit=1)
        return not any((inspect.active() or {"": ["no answer"]}).values())

    def counters(self, worker: Child) -> dict[str, Any]:
        """Ask a worker for its counters."""
        inspect = self.app.control.inspect([worker.name], timeout=3)
        stats: Callable[[], dict[str, Any] | None] = inspect.stats
        answer = wait_until(stats, 30, f"statistics of {worker.name}")
        assert answer is not None
        counters: dict[str, Any] = answer[worker.name]["leader_publications"]
        return counters

    def waiting(self) -> int:
        """Return how many messages are in the queue."""
        with self.app.connection_for_write() as connection:
            declared = connection.default_channel.queue_declare(
                self.queue, durable=True, auto_delete=False
            )
            return int(declared.message_count)

    def close(self) -> None:
        """Delete the queue and its exchange."""
        with self.app.connection_for_write() as connection:
            connection.default_channel.queue_delete(self.queue)
            connection.default_channel.exchange_delete(self.queue)
        self.app.close()
