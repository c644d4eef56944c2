"""What each tool is tried with: an app with some entries, all due at once, a beat and a worker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import redis
from celery import Celery
from celery.beat import Scheduler, Service

__all__ = ["ENTRIES", "Seen", "ToolStage", "headers_of"]

ENTRIES = 12
"""All are due at the start, once; Sentry monitors nothing that is due each second."""
WAIT = 60.0
"""Seconds."""

Messages = list[dict[str, Any]]
Seen = Callable[[Messages], dict[str, Any]]
"""Returns what a tool has seen of messages that were published and, with a worker, executed."""


def headers_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the headers of a message as it lies in Redis."""
    headers: dict[str, Any] = message["headers"]
    return headers


@dataclass
class ToolStage:
    """One beat and one worker of one process, and what a tool wants otherwise than usual."""

    kind: str
    """``stock`` or ``leader``."""
    broker: str
    key: str
    """Of the election, and name of the queue."""
    app_class: type = Celery
    make_scheduler_class: Callable[[bool], type] | None = None
    """Called with whether it shall be ours; without, the ordinary ones are taken."""
    tasks: dict[str, Any] = field(default_factory=dict)
    """Options of the task."""
    conf: dict[str, Any] = field(default_factory=dict)
    entry: dict[str, Any] | None = None
    """In place of the schedule that makes all entries overdue."""
    entry_of: Callable[[int], dict[str, Any]] | None = None
    """Returns what is given to one entry more than its name and task, by its number."""
    has_schedule: bool = True
    """Whether there is a ``beat_schedule``; without, the store has the entries already."""
    same: int = 1
    """So many entries have the same arguments, of which a tool lets one be sent."""
    messages_of_each: int = 1
    around: Callable[[Celery, Callable[[], None]], None] | None = None
    """Runs beat in another way than as a service: until what it is given says so."""
    on_run: Callable[[], object] = lambda: None
    """Called in each task."""
    at_end: list[Callable[[], object]] = field(default_factory=list)
    """What is called in the end, the last first."""
    kept: list[Any] = field(default_factory=list)
    """What has to live as long as this."""
    ran: list[str] = field(default_factory=list)
    """Ids of the tasks that the worker has executed."""
    notes: dict[str, str] = field(default_factory=dict)
    """What only ours does, for the report."""

    @property
    def is_ours(self) -> bool:
        """Whether the scheduler is ours."""
        return self.kind == "leader"

    @property
    def scheduler_class(self) -> type:
        """The scheduler's class."""
        if self.make_scheduler_class is not None:
            return self.make_scheduler_class(self.is_ours)
        if not self.is_ours:
            return Scheduler
        from celery_safe_leader import LeaderScheduler

        return LeaderScheduler

    @property
    def expected(self) -> int:
        """How many messages there will be."""
        return ENTRIES // self.same * self.messages_of_each

    def app(self) -> Celery:
        """Return an app with the task and its entries."""
        app = self.app_class("shop", broker=self.broker)
        last_run_at = datetime.now(timezone.utc) - timedelta(hours=1.5)
        common = self.entry or {"schedule": 3600.0, "last_run_at": last_run_at}
        schedule = {
            f"entry-{n}": {
                "task": "shop.work", "args": (n // self.same,),
                **(common if self.entry_of is None else self.entry_of(n)),
            }
            for n in range(ENTRIES if self.has_schedule else 0)
        }  # fmt: skip
        app.conf.update(
            leader_ttl=2.0, leader_key=self.key, task_default_queue=self.key, beat_schedule=schedule
        )
        app.conf.update(self.conf)
        ran, on_run = self.ran, self.on_run

        @app.task(name="shop.work", bind=True, **self.tasks)
        def work(self: Any, number: int) -> int:
            on_run()
            ran.append(self.request.id)
            return number

        return app

    def publish(self) -> Messages:
        """Let a beat run until all is published; return the messages, which stay in the queue."""
        app, client = self.app(), redis.Redis.from_url(self.broker)
        until = time.monotonic() + WAIT

        def wait() -> None:
            count: Any = 0
            while count < self.expected and time.monotonic() < until:
                time.sleep(0.05)
                count = client.llen(self.key)

        if self.around is not None:
            self.around(app, wait)
        else:
            # Stock beat sleeps to the end of this, also when it is told to stop.
            service = Service(app, max_interval=1.0, scheduler_cls=self.scheduler_class)
            thread = threading.Thread(target=service.start, daemon=True)
            thread.start()
            wait()
            service.stop()
            thread.join(WAIT)
        raw: Any = client.lrange(self.key, 0, -1)
        return [json.loads(each) for each in reversed(raw)]

    def execute(self, count: int) -> None:
        """Let a worker execute what is in the queue."""
        from celery.contrib.testing.worker import start_worker

        app = self.app()
        app.conf.worker_hijack_root_logger = False
        app.loader.import_module("celery.contrib.testing.tasks")
        if self.is_ours:
            from celery_safe_leader import install

            install(app)
        until = time.monotonic() + WAIT
        with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=WAIT):
            while len(self.ran) < count and time.monotonic() < until:
                time.sleep(0.05)
