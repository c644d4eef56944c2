"""Real ``celery worker`` processes, and the app that they are started with."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from celery_safe_leader import signals
from tests.support.processes import Children, wait_until

__all__ = ["Worker", "elected_at", "import_app", "leader_of", "wait_listening", "write_worker_app"]

_APP = """\
import os
import time

import redis
from celery import Celery, chain, chord, shared_task

import celery_safe_leader

app = Celery("shop", set_as_current=True)
app.conf.update({conf!r})
celery_safe_leader.install(app)
store = redis.Redis.from_url({store!r})

@app.task(name="plain")
def plain(x=None):
    store.rpush("plain", os.getppid())
    return x
"""

_ELECTED = re.compile(r"Elected leader of .* \(token (\d+)\)")


def write_worker_app(
    folder: Path, broker: str, redis: str, *, more: str = "", **settings: Any
) -> None:
    """Write ``app.py``.

    Args:
        folder: Where workers are started.
        broker: URL.
        redis: URL of the election's server, which keeps the results and the tasks' marks, too.
        more: More source, such as tasks.
        settings: For ``app.conf``.
    """
    conf = {
        "broker_url": broker,
        "result_backend": redis,
        "leader_url": redis,
        "leader_ttl": 1.0,
        "leader_wait": 0.2,
        "broker_connection_retry_on_startup": True,
        "worker_hijack_root_logger": True,
        **settings,
    }
    (folder / "app.py").write_text(_APP.format(conf=conf, store=redis) + more)


def import_app(folder: Path) -> Any:
    """Import ``app.py`` as a producer would.

    Its receivers of this package's signals are for workers. Here, one that hangs would keep the
    tests that follow in this process from being told of anything.
    """
    known = [getattr(signals, name) for name in signals.__all__]
    before = [list(signal.receivers) for signal in known]
    spec = importlib.util.spec_from_file_location("app", folder / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for signal, receivers in zip(known, before, strict=True):
        signal.receivers[:] = receivers
    return module


class Worker:
    """A ``celery worker`` process."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        *arguments: str,
        name: str = "worker",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        program = ["celery", "-A", "app", "worker", "-n", f"{name}@test", "-l", "INFO", "-E"]
        options = ["--without-mingle", "--without-gossip", *arguments]
        environment = {"PYTHONPATH": str(folder), **(env or {})}
        self.child = children.module(*program, *options, env=environment, cwd=folder, name=name)

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self.child.pid

    @property
    def leads(self) -> bool:
        """Whether it led when it last spoke."""
        if not self.child.running:
            return False
        said = [line for line in self.child.lines if "Elected leader" in line or "Demoted" in line]
        return bool(said) and "Elected" in said[-1]

    @property
    def consumes(self) -> bool:
        """Whether it consumed the leader queue when it last spoke."""
        said = [line for line in self.child.lines if line.endswith("leader.shop")]
        said = [line for line in said if "consuming from" in line or "Canceling queue" in line]
        return bool(said) and "consuming from" in said[-1]

    def wait_ready(self) -> None:
        """Wait until it takes messages."""
        self.child.wait_for_line(" ready.", 30)


def wait_listening(app: Any, workers: Sequence[Worker]) -> None:
    """Wait until all hear remote control: on Redis they do a moment after they say ready."""
    names = {f"{worker.name}@test" for worker in workers}

    def heard() -> bool:
        answers = app.control.ping(sorted(names), timeout=2, limit=len(names))
        return names == {name for answer in answers for name in answer}

    wait_until(heard, 30, "answers of all workers")


def leader_of(
    workers: Sequence[Worker], timeout: float = 30.0, *, other_than: Any = None
) -> Worker:
    """Wait until one of them leads and consumes the leader queue."""

    def leading() -> Worker | None:
        return next((w for w in workers if w.consumes and w.leads and w is not other_than), None)

    def standing() -> str:
        return "\n".join(f"{worker.name}:\n{worker.child.output}" for worker in workers)

    found = wait_until(leading, timeout, lambda: f"a leader; {standing()}")
    assert found is not None
    return found


def elected_at(worker: Worker) -> float:
    """Return when its last election was heard of."""
    lines = [line for line in worker.child.timed_lines if _ELECTED.search(line.text)]
    return lines[-1].at if lines else time.monotonic()
