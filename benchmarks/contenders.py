"""Schedulers that dispatch the same entries, and the plain loop that they are compared with."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from celery.beat import PersistentScheduler, Scheduler
from multibeat.schedulers import MultiBeatPersistentScheduler  # type: ignore[import-untyped]
from redbeat import RedBeatScheduler
from redbeat.schedulers import acquire_distributed_beat_lock

from celery_safe_leader import LeaderScheduler

__all__ = ["CONTENDERS", "PEERS", "Contender", "Stage", "queue_length"]

QUEUE = "celery"
TASK = "shop.work"


@dataclass
class Stage:
    """What a measurement runs on."""

    broker: str
    """URL of the broker."""
    state: str
    """URL of the Redis that holds elections, ledgers and locks."""
    folder: Path
    """For schedule files."""

    def app(self, entries: int, due: float) -> Celery:
        """Make an app with entries that are due once, all at the same moment.

        Args:
            entries: How many.
            due: Seconds since 1970.
        """
        app = Celery("bench", set_as_current=False)
        app.conf.update(
            broker_url=self.broker,
            broker_connection_retry_on_startup=True,
            redbeat_redis_url=self.state,
            redbeat_redis_options={},
            multibeat_url=self.state,
            leader_url=self.state,
            leader_key="bench",
            leader_ttl=1.0,
            leader_wait=0.2,
        )
        app.task(name=TASK, shared=False)(_work)
        last = datetime.fromtimestamp(due, timezone.utc) - timedelta(hours=1)
        app.conf.beat_schedule = {
            f"entry-{number}": {
                "task": TASK,
                "schedule": 3600.0,
                "args": (number, "some text"),
                "kwargs": {"flag": True},
                "last_run_at": last,
            }
            for number in range(entries)
        }
        return app


def _work(*args: Any, **kwargs: Any) -> None:
    pass


def queue_length(broker: str) -> int:
    """Count the messages that have arrived at a Redis broker."""
    with redis.Redis.from_url(broker) as client:
        return int(client.llen(QUEUE))


@dataclass(frozen=True)
class Contender:
    """One way to send."""

    name: str
    most: int
    """Largest number of entries that it is tried with."""
    session: Callable[[Stage, int, float], contextlib.AbstractContextManager[Callable[[], int]]]
    """Called with the stage, how many entries, and when they are due. The context is ready to
    send at that moment; its value sends, and returns how many it sent."""

    def rate(self, stage: Stage, entries: int, due: float) -> float:
        """Return how many messages a second it sends."""
        with self.session(stage, entries, due) as send:
            pause = due - time.time()
            if pause <= 0:
                raise RuntimeError(f"{self.name} was {-pause:.1f} s too late with {entries}")
            time.sleep(pause + 0.02)
            gc.collect()
            began = time.perf_counter()
            sent = send()
            seconds = time.perf_counter() - began
        return sent / seconds


@contextlib.contextmanager
def _loop(stage: Stage, entries: int, due: float) -> Iterator[Callable[[], int]]:
    """The yardstick: ``send_task`` with one producer."""
    app = stage.app(0, due)
    count = min(entries, 10_000)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(TASK, (0, "some text"), {"flag": True}, producer=producer)

        def send() -> int:
            for number in range(count):
                app.send_task(TASK, (number, "some text"), {"flag": True}, producer=producer)
            return count

        yield send


@contextlib.contextmanager
def _leader(stage: Stage, entries: int, due: float) -> Iterator[Callable[[], int]]:
    scheduler = LeaderScheduler(app=stage.app(entries, due), lazy=False, max_interval=1e-4)
    try:
        while not scheduler.is_leader:
            scheduler.tick()
        scheduler.tick()

        def send() -> int:
            while queue_length(stage.broker) < entries:
                scheduler.tick()
            return entries

        yield send
    finally:
        scheduler.close()


def _one_by_one(
    make: Callable[[Celery, Stage], Any],
) -> Callable[[Stage, int, float], contextlib.AbstractContextManager[Callable[[], int]]]:
    @contextlib.contextmanager
    def session(stage: Stage, entries: int, due: float) -> Iterator[Callable[[], int]]:
        scheduler = make(stage.app(entries, due), stage)
        scheduler.tick()
        _ = scheduler.producer  # connects
        # Each tick sends one, and costs the same: a part tells the rate.
        count = min(entries, 300)

        def send() -> int:
            while queue_length(stage.broker) < count:
                for _ in range(count // 10):
                    scheduler.tick()
            return queue_length(stage.broker)

        try:
            yield send
        finally:
            scheduler.close()

    return session


def _stock(app: Celery, stage: Stage) -> Any:
    return Scheduler(app=app, lazy=False)


def _persistent(app: Celery, stage: Stage) -> Any:
    path = stage.folder / f"schedule-{os.getpid()}-{time.monotonic_ns()}"
    return PersistentScheduler(app=app, lazy=False, schedule_filename=str(path))


def _multibeat(app: Celery, stage: Stage) -> Any:
    path = stage.folder / f"multibeat-{os.getpid()}-{time.monotonic_ns()}"
    return MultiBeatPersistentScheduler(app=app, lazy=False, schedule_filename=str(path))


@contextlib.contextmanager
def _redbeat(stage: Stage, entries: int, due: float) -> Iterator[Callable[[], int]]:
    scheduler = RedBeatScheduler(app=stage.app(entries, due), lazy=False)
    acquire_distributed_beat_lock(_Sender(scheduler))
    scheduler.tick()
    _ = scheduler.producer

    def send() -> int:
        while queue_length(stage.broker) < entries:
            scheduler.tick()
        return entries

    try:
        yield send
    finally:
        scheduler.close()


@dataclass
class _Sender:
    scheduler: Any


LOOP = Contender("loop of send_task", 100_000, _loop)
LEADER = Contender("LeaderScheduler", 100_000, _leader)
PEERS = (
    Contender("Scheduler", 10_000, _one_by_one(_stock)),
    Contender("PersistentScheduler", 3_000, _one_by_one(_persistent)),
    Contender("RedBeat", 10_000, _redbeat),
    Contender("MultiBeat", 3_000, _one_by_one(_multibeat)),
)
CONTENDERS = (LOOP, LEADER, *PEERS)
