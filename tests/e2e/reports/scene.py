"""One app, workers with this package and stock workers, for what people reported of Celery."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu.pools
import redis
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.support.celery.workers import import_app
from tests.support.network.proxy import Proxy
from tests.support.processes import Child, Children, wait_until
from tests.support.servers import Server

__all__ = ["LEADER_QUEUE", "OURS", "STOCK", "MakeScene", "Scene", "scenes"]

LEADER_QUEUE, OURS, STOCK = "leader.shop", "ours", "stock"
"""The queues: of leader-only calls, and of ordinary ones for our workers and for stock workers."""
_SOURCE = """\
import os, time

import redis
from celery import Celery
from celery.worker.control import control_command

app = Celery("shop", set_as_current=True)
app.conf.update({conf!r})
STOCK = "STOCK" in os.environ
app.conf.broker_url = os.environ.get("REPORTS_BROKER", {broker!r})
if not STOCK:
    import celery_safe_leader
    from celery_safe_leader import leader_only
    app.conf.leader_url = os.environ.get("REPORTS_REDIS", {election!r})
    app.conf.update(leader_ttl=2.0, leader_wait=0.2)
    celery_safe_leader.install(app)
store = redis.Redis.from_url({store!r})

def note(task, x, began):
    store.rpush(task.name, f"{{task.request.hostname}} {{x}} {{began}} {{time.monotonic()}}")

@app.task(name="plain", bind=True, acks_late=True, max_retries=None)
def plain(self, x, seconds=0, retries=0):
    if self.request.retries < retries:
        raise self.retry(countdown=1)
    began = time.monotonic()
    time.sleep(seconds)
    note(self, x, began)

if not STOCK:
    @app.task(name="alone", bind=True, acks_late=True, max_retries=None)
    @leader_only
    def alone(self, x, seconds=0, retries=0):
        if self.request.retries < retries:
            raise self.retry(countdown=1)
        began = time.monotonic()
        time.sleep(seconds)
        note(self, x, began)

@control_command()
def break_channel(state):
    state.consumer.task_consumer.channel.basic_ack(999_999_999)
"""


class Scene:
    """Starts workers, and says what they ran; ``close()`` ends them.

    Args:
        children: Starts processes.
        folder: For the app.
        store: Keeps what ran, and nothing is done to it.
        broker: URL for the calls.
        election: URL of the election's server.
        settings: Of the app.
    """

    def __init__(
        self,
        children: Children,
        folder: Path,
        store: Server,
        broker: str,
        election: str,
        **settings: Any,
    ) -> None:
        conf = {
            "broker_connection_retry_on_startup": True,
            "worker_hijack_root_logger": True,
            "task_ignore_result": True,
            **settings,
        }
        self._children = children
        self._folder = folder
        self._store = redis.Redis.from_url(store.url, decode_responses=True)
        source = _SOURCE.format(conf=conf, broker=broker, election=election, store=store.url)
        (folder / "app.py").write_text(source)
        self.module: Any = import_app(folder)
        self.workers: list[Child] = []

    def start(
        self, *arguments: str, queue: str = OURS, broker: str = "", election: str = ""
    ) -> Child:
        """Start a worker, a stock one for its queue, and wait until it is ready.

        Args:
            arguments: More of its command line.
            queue: Which it consumes.
            broker: URL, if it is another one than that for calls.
            election: The same of the election's server.
        """
        name = f"{queue}-{len(self.workers)}"
        program = ["celery", "-A", "app", "worker", "-n", f"{name}@here", "-l", "INFO", "-Q", queue]
        size = () if any(a.startswith("--autoscale") for a in arguments) else ("-c", "2")
        options = [*("--without-mingle", "--without-gossip"), *size, *arguments]
        env = {"PYTHONPATH": str(self._folder)}
        env |= {"STOCK": "1"} if queue == STOCK else {}
        env |= {"REPORTS_BROKER": broker} if broker else {}
        env |= {"REPORTS_REDIS": election} if election else {}
        child = self._children.module(*program, *options, env=env, cwd=self._folder, name=name)
        self.workers.append(child)
        child.wait_for_line(" ready.", 60)
        return child

    def leader(self, *, other_than: Child | None = None, timeout: float = 60.0) -> Child:
        """Wait until one of the workers consumes the leader queue."""

        def leading() -> Child | None:
            for worker in self.workers:
                said = [
                    line
                    for line in worker.lines
                    if line.endswith(LEADER_QUEUE)
                    and ("Started consuming" in line or "Canceling queue" in line)
                ]
                if worker.running and worker is not other_than and said[-1:]:
                    if "Started" in said[-1]:
                        return worker
            return None

        found = wait_until(leading, timeout, self.standing)
        assert found is not None
        return found

    def standing(self) -> str:
        """Return what all workers said."""
        return "\n".join(f"{w.name} ({w.returncode}):\n{w.output[-4000:]}" for w in self.workers)

    def alone(self, x: object, *args: object, **options: Any) -> None:
        """Call the leader-only task."""
        self.module.alone.apply_async((x, *args), **options)

    def plain(self, x: object, *args: object, queue: str = OURS, **options: Any) -> None:
        """Call the ordinary task."""
        self.module.plain.apply_async((x, *args), queue=queue, **options)

    def ran(self, task: str) -> list[tuple[str, str, float, float]]:
        """Return worker, argument, begin and end of each run so far."""
        found: Any = self._store.lrange(task, 0, -1)
        runs = [line.split() for line in found]
        return [(who, x, float(began), float(ended)) for who, x, began, ended in runs]

    def wait_ran(self, task: str, *calls: object, timeout: float = 60.0) -> None:
        """Wait until each of these calls has run."""
        wanted = {str(call) for call in calls}

        def done() -> bool:
            return wanted <= {x for _, x, _, _ in self.ran(task)}

        wait_until(done, timeout, lambda: f"{wanted} of {self.ran(task)}\n{self.standing()}")

    def runs_within(self, task: str, call: object, seconds: float) -> bool:
        """Return whether a call runs in this time: for what stock Celery does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if str(call) in {x for _, x, _, _ in self.ran(task)}:
                return True
            time.sleep(0.1)
        return False

    def most_at_once(self, task: str, *calls: object) -> int:
        """Return how many of these calls ran at the same moment, at most."""
        wanted = {str(call) for call in calls}
        runs = [(began, ended) for _, x, began, ended in self.ran(task) if x in wanted]
        return max(sum(b <= at < e for b, e in runs) for at, _ in runs)

    def answers(self, worker: Child) -> bool:
        """Return whether a worker answers remote control."""
        control = self.module.app.control
        try:
            return bool(control.ping([f"{worker.name}@here"], timeout=2, limit=1))
        except (OSError, RedisConnectionError, OperationalError):
            return False  # our own connection was cut as well

    def cut_until_reconnected(self, proxy: Proxy, *workers: Child) -> None:
        """Cut the link, and wait until the workers have connected again."""
        before = [len(worker.lines) for worker in workers]
        proxy.cut()
        for worker, count in zip(workers, before, strict=True):
            worker.wait_for_line("Connected to ", 60, after=count)

    def close(self) -> None:
        """End all workers."""
        self._children.close()
        self._store.close()
        self.module.store.close()
        self.module.app.close()
        # Its connections are kept by URL, also for the next test, whose broker was emptied.
        kombu.pools.reset()


MakeScene = Callable[..., Scene]
"""Takes the URLs of broker and election, and settings."""


@contextlib.contextmanager
def scenes(children: Children, folder: Path, store: Server) -> Iterator[MakeScene]:
    """Make scenes, which are closed at the end; what ran is kept in ``store``."""
    made: list[Scene] = []

    def make(broker: str, election: str, **settings: Any) -> Scene:
        made.append(Scene(children, folder, store, broker, election, **settings))
        return made[-1]

    yield make
    for scene in made:
        scene.close()
