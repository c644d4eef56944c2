"""The fleet's processes and servers, and what each process holds of the machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from tests.soak.fleet.app import KEY, LEADER_QUEUE, QUEUE, read_notes, write
from tests.support.celery.chaos import MICROSECONDS, Grid
from tests.support.network.proxy import Proxy
from tests.support.processes import Child, Children
from tests.support.processes.cleanup import CleansUp
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds
from tests.support.servers.own_rabbitmq import OwnRabbitMQ

__all__ = ["LEADS", "Harbour", "Post"]

WORKERS, BEATS = 4, 3
STEPS = {f"entry-{n}": step for n, step in enumerate((1.0, 1.7, 2.9, 5.0, 11.0, 30.0))}
PATIENCE = 45.0
"""Seconds after which a process that was told to end is killed, as whoever runs processes does."""
LEADS = "leads"
"""In a sample, whether a process led: 1 or 0, or -1 where Redis did not say who leads."""


class Post:
    """A place in the fleet, and the process that fills it now.

    Args:
        kind: ``worker`` or ``beat``.
        number: From 0.
        start: Starts a process, given its name.
    """

    def __init__(self, kind: str, number: int, start: Callable[[str], Child]) -> None:
        self.kind = kind
        self.number = number
        self._start = start
        self._count = 0
        self.all: list[Child] = []
        self.stopped = False
        self.begin()

    @property
    def is_elder(self) -> bool:
        """Whether its process is never ended, so that what grows in an hour shows."""
        return self.number == 0

    @property
    def child(self) -> Child:
        """The process that fills it now."""
        return self.all[-1]

    @property
    def name(self) -> str:
        """Of the process: another one for each."""
        return self.child.name

    def begin(self) -> None:
        """Start a process."""
        self.all.append(self._start(f"{self.kind}-{self.number}-{self._count}"))
        self._count += 1

    def stop_still(self) -> None:
        """SIGSTOP it and its pool."""
        self.stopped = True
        os.killpg(self.child.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.stopped = False
        os.killpg(self.child.pid, signal.SIGCONT)


class Harbour(CleansUp):
    """All that takes part. Servers run at first, and processes after ``start()``.

    Args:
        folder: For the app, what tasks note, and temporary files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.posts: list[Post] = []
        self.gone: list[Post] = []
        """Those that were ended in the end, one after the other."""
        self.ending: list[tuple[float, Child]] = []
        """Processes that were told to end, and when they are killed if they have not."""
        self.impatient = 0
        """How many had to be killed."""
        # In the past once a beat leads: from a last run in its future an entry would start anew.
        began = time.time_ns() // 1000
        self.grids = {name: Grid(began, round(step * MICROSECONDS)) for name, step in STEPS.items()}
        with ExitStack() as stack:
            kept = {"appendonly": "yes", "appendfsync": "always"}
            self.redis = stack.enter_context(Server(installed_kinds()[0], config=kept))
            self.store = stack.enter_context(Server(installed_kinds()[0]))
            self.rabbitmq = stack.enter_context(OwnRabbitMQ())
            self.to_redis = [stack.enter_context(Proxy(self.redis.port)) for _ in range(2)]
            self.to_broker = [stack.enter_context(Proxy(self.rabbitmq.port)) for _ in range(2)]
            self.children = Children()
            stack.callback(self.children.close)
            self._cleanup = stack.pop_all()
        urls = {"broker": self.rabbitmq.url, "election": self.redis.url, "store": self.store.url}
        write(folder, self.notes, self.grids, **urls)
        # It sends from here: it has no need of the tasks.
        self.app = Celery("shop", broker=self.rabbitmq.url, set_as_current=False)
        self.app.conf.update(task_default_queue=QUEUE, broker_connection_timeout=2)

    def start(self) -> None:
        """Start workers and beats, and wait until somebody leads in both elections."""
        for kind, count, begin in (
            ("worker", WORKERS, self._start_worker),
            ("beat", BEATS, self._start_beat),
        ):
            for number in range(count):
                self.posts.append(Post(kind, number, begin))

    def of(self, kind: str) -> list[Post]:
        """Return the posts of a kind."""
        return [post for post in self.posts if post.kind == kind]

    def leader(self, kind: str) -> Post | None:
        """Return who leads by the record in Redis, without any wait."""
        try:
            holder = self.redis.client().hget(f"{{leader:{KEY}}}:{kind}:lease", "holder")
        except redis.RedisError:
            return None
        parts = str(holder or "").split(":")
        pids = {post.child.pid: post for post in self.of(kind)}
        return next((pids[int(p)] for p in parts if p.isdigit() and int(p) in pids), None)

    def _start_worker(self, name: str) -> Child:
        own = f"own-{name}"
        program = ["celery", "-A", "app", "worker", "-n", f"{name}@fleet", "-l", "INFO", "-c", "2"]
        quiet = ["--without-gossip", "--without-mingle", "-Q", f"{QUEUE},{own}"]
        return self._begin(name, *program, *quiet)

    def _start_beat(self, name: str) -> Child:
        schedule = str(self.folder / f"{name}.db")
        program = ["celery", "-A", "app", "beat", "-S", "leader", "-l", "INFO", "-s", schedule]
        return self._begin(name, *program)

    def _begin(self, name: str, *program: str) -> Child:
        way = int(name.split("-")[1]) % 2
        broker, election = self.to_broker[way], self.to_redis[way]
        env = {
            "PYTHONPATH": str(self.folder),
            "FLEET_BROKER": f"amqp://guest:guest@{broker.host}:{broker.port}//",
            "FLEET_REDIS": election.url(),
            "TMPDIR": str(self.temporary),
        }
        return self.children.module(*program, env=env, cwd=self.folder, name=name)

    # What ends, and what begins in its place

    def replace(self, post: Post, *signals: tuple[signal.Signals, float]) -> None:
        """Send signals to a post's process, each after a pause, and start another one.

        Args:
            post: Not that of an elder.
            signals: Each with the seconds before it.
        """
        child = post.child
        for number, pause in signals:
            time.sleep(pause)
            child.signal(number)
        self.ending.append((time.monotonic() + PATIENCE, child))
        post.begin()

    def attend(self) -> list[str]:
        """Kill what does not end, replace what ended by itself, and return what is wrong."""
        still = []
        for when, child in self.ending:
            if child.running and time.monotonic() >= when:
                self.impatient += 1
                os.killpg(child.pid, signal.SIGKILL)
            elif child.running:
                still.append((when, child))
        self.ending = still
        found = []
        for post in self.posts:
            if not post.child.running:
                last = " | ".join(post.child.lines[-3:])
                found.append(f"{post.name} ended by itself ({post.child.returncode}): {last}")
                post.begin()
        return found

    # What is sent from here

    def control(self, name: str, arguments: dict[str, Any], post: Post, *, reply: bool) -> bool:
        """Send a command of remote control to a worker; return whether that succeeded."""
        try:
            answers = self.app.control.broadcast(
                name,
                arguments=arguments,
                destination=[f"{post.name}@fleet"],
                reply=reply,
                timeout=2.0,
                limit=1,
            )
        except Exception:  # the broker is away, say
            return False
        return bool(answers) or not reply

    def works(self, post: Post) -> bool:
        """Send a call to a worker's own queue."""
        call = f"to {post.name}"
        try:
            with self.app.connection_for_write() as connection:
                self.app.send_task(
                    "shop.direct", (call,), queue=f"own-{post.name}", connection=connection
                )
        except Exception:  # as above
            return False
        return True

    def answered(self) -> set[str]:
        """Return which workers ran what was sent to them."""
        return {call.removeprefix("to ") for call, _ in read_notes(self.notes)[2]}

    def lines(self) -> Iterable[tuple[str, str]]:
        """Return all lines of all processes, with the name of each."""
        for post in [*self.posts, *self.gone]:
            for child in post.all:
                for line in child.lines:
                    yield child.name, line

    def waiting(self) -> int:
        """Return how many messages wait in the queue of periodic runs and the leader queue."""
        with self.app.connection_for_write() as connection:
            channel = connection.default_channel
            return sum(
                int(channel.queue_declare(name, passive=True).message_count)
                for name in (QUEUE, LEADER_QUEUE)
            )

    def sample(self) -> dict[str, float]:
        """Return what the elders hold, and whether they lead."""
        found: dict[str, float] = {}
        for post in self.posts:
            if post.is_elder:
                leader = self.leader(post.kind)
                leads = -1.0 if leader is None else float(leader is post)
                held = {LEADS: leads, **_held(post.child.pid)}
                found |= {f"{post.kind} 0: {name}": value for name, value in held.items()}
        return found


def _held(pid: int) -> dict[str, float]:
    status = Path(f"/proc/{pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    sockets = files = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files += 1
            sockets += str(link.readlink()).startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return {
        "RSS KiB": float(fields["VmRSS"].split()[0]),
        "threads": float(fields["Threads"]),
        "sockets": float(sockets),
        "files": float(files),
    }
