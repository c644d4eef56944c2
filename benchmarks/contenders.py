"""Schedulers that dispatch the same entries, and the plain loop that they are compared with."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from celery import Celery
from celery.beat import PersistentScheduler, Scheduler

from benchmarks.stage import TASK, Rig
from celery_safe_leader import LeaderScheduler
from celery_safe_leader._dispatch.timetable import EARLIEST

__all__ = [
    "CONTENDERS",
    "LEADER",
    "LOOP",
    "OVERDUE",
    "OVERDUE_LOOP",
    "PEERS",
    "Contender",
    "Measured",
    "TooLateError",
]

_LOOP_LENGTH = 5_000
"""Messages after which the loop ends: each costs the same, whatever the number of entries."""
_OVERDUE = 60.0
"""Seconds for which entries are overdue that run for the first time."""
_PART_SECONDS = 1.0
_PART_MOST = 300
"""What is measured of a scheduler of which each tick sends one entry and costs the same."""


class TooLateError(Exception):
    """The contender was not ready at the moment at which the entries were due."""


Send = Callable[[], int]
Session = Callable[[Rig, int, float], contextlib.AbstractContextManager[Send]]


@dataclass(frozen=True)
class Measured:
    """What came of one turn of a contender."""

    rate: float
    """Messages per second."""
    cost: float
    """Seconds of this process's processors for one message."""
    getting_ready: float
    """Seconds until all entries were known."""


@dataclass(frozen=True)
class Contender:
    """One way to send."""

    name: str
    most: int
    """Largest number of entries that it is tried with."""
    session: Session
    """Called with the stage, how many entries, and when they are due. The context is ready to
    send at that moment; its value sends, and returns how many it sent."""
    elects: bool = False
    """Whether it takes part in an election before it is ready."""
    early: float = 0.0
    """Seconds before the moment at which it begins with its work, if it is called then. It must be
    ready before: all the work is to be measured."""

    def measure(self, stage: Rig, entries: int, lead: float) -> Measured:
        """Send once.

        Args:
            stage: An empty one.
            entries: How many.
            lead: Seconds that it has to get ready.

        Raises:
            TooLateError: They were too few.
        """
        began = time.time()
        with self.session(stage, entries, began + lead) as send:
            needed = time.time() - began
            if needed > lead - self.early:
                raise TooLateError
            gc.collect()
            time.sleep(max(0.0, began + lead - time.time()) + 0.02)
            started, used = time.perf_counter(), time.process_time()
            sent = send()
            seconds = time.perf_counter() - started
            used = time.process_time() - used
        return Measured(sent / seconds, used / sent, needed)


@contextlib.contextmanager
def _loop(stage: Rig, entries: int, due: float) -> Iterator[Send]:
    """The yardstick: ``send_task`` with one producer."""
    app = stage.app(0, due)
    count = min(entries, _LOOP_LENGTH)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        app.send_task(TASK, (0, "some text"), {"flag": True}, producer=producer)

        def send() -> int:
            for number in range(count):
                app.send_task(TASK, (number, "some text"), {"flag": True}, producer=producer)
            return count

        yield send


@contextlib.contextmanager
def _leader(stage: Rig, entries: int, due: float) -> Iterator[Send]:
    stage.hold_election()
    scheduler = LeaderScheduler(app=stage.app(entries, due), lazy=False, max_interval=1e-4)
    with contextlib.closing(scheduler), _all_at_once(scheduler, stage, entries, due) as send:
        yield send


@contextlib.contextmanager
def _loop_of_entries(stage: Rig, entries: int, due: float) -> Iterator[Send]:
    """The yardstick of ``OVERDUE``: the loop over the same entries, the first message included."""
    app = stage.app(entries, due - _OVERDUE, warm_up=False)
    each = list(app.conf.beat_schedule.values())[:_LOOP_LENGTH]
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:

        def send() -> int:
            for entry in each:
                app.send_task(entry["task"], entry["args"], entry["kwargs"], producer=producer)
            return len(each)

        yield send


@contextlib.contextmanager
def _overdue(stage: Rig, entries: int, due: float) -> Iterator[Send]:
    """All that follows the election: the ledger is loaded, and all entries are new to it."""
    stage.hold_election()
    app = stage.app(entries, due - _OVERDUE, warm_up=False)
    scheduler = LeaderScheduler(app=app, lazy=False, max_interval=1e-4)
    with contextlib.closing(scheduler), stage.arrivals() as arrived:
        while not scheduler.is_leader:
            scheduler.tick()
        if arrived():
            raise RuntimeError("entries were dispatched before the clock was started")

        def send() -> int:
            while arrived() < entries:
                scheduler.tick()
            return entries

        yield send


@contextlib.contextmanager
def _redbeat(stage: Rig, entries: int, due: float) -> Iterator[Send]:
    from redbeat import RedBeatScheduler
    from redbeat.schedulers import acquire_distributed_beat_lock

    scheduler = RedBeatScheduler(app=stage.app(entries, due), lazy=False)
    acquire_distributed_beat_lock(_Sender(scheduler))
    with contextlib.closing(scheduler), _all_at_once(scheduler, stage, entries, due) as send:
        yield send


@dataclass
class _Sender:
    scheduler: Any


@contextlib.contextmanager
def _all_at_once(scheduler: Any, stage: Rig, entries: int, due: float) -> Iterator[Send]:
    """Tick until all have arrived."""
    with stage.arrivals() as arrived:
        _warm_up(scheduler, arrived, due)

        def send() -> int:
            while True:
                scheduler.tick()
                if arrived() > entries:  # and the one of the warm-up
                    return entries

        yield send


def _one_by_one(make: Callable[[Celery, Rig], Any]) -> Session:
    @contextlib.contextmanager
    def session(stage: Rig, entries: int, due: float) -> Iterator[Send]:
        scheduler = make(stage.app(entries, due), stage)
        count = min(entries, _PART_MOST)
        with contextlib.closing(scheduler), stage.arrivals() as arrived:
            _warm_up(scheduler, arrived, due)

            def send() -> int:
                end = time.perf_counter() + _PART_SECONDS
                while time.perf_counter() < end or arrived() == 1:
                    for _ in range(max(1, count // 10)):
                        scheduler.tick()
                        if time.perf_counter() >= end:
                            break
                    if arrived() > count:
                        break
                return arrived() - 1

            yield send

    return session


def _warm_up(scheduler: Any, arrived: Callable[[], int], due: float) -> None:
    if time.time() > due:
        raise TooLateError
    scheduler.tick()
    while not _arrived_one(arrived):
        scheduler.tick()
    scheduler.tick()


def _arrived_one(arrived: Callable[[], int]) -> bool:
    try:
        return arrived() > 0  # more: the others were due already
    except Exception as exc:
        if getattr(exc, "code", None) != 404:  # RabbitMQ: there is no queue yet
            raise
        return False


def _stock(app: Celery, stage: Rig) -> Any:
    return Scheduler(app=app, lazy=False)


def _persistent(app: Celery, stage: Rig) -> Any:
    path = stage.folder / f"schedule-{os.getpid()}-{time.monotonic_ns()}"
    return PersistentScheduler(app=app, lazy=False, schedule_filename=str(path))


def _multibeat(app: Celery, stage: Rig) -> Any:
    from multibeat.schedulers import (  # type: ignore[import-untyped]
        MultiBeatPersistentScheduler,
    )

    path = stage.folder / f"multibeat-{os.getpid()}-{time.monotonic_ns()}"
    return MultiBeatPersistentScheduler(app=app, lazy=False, schedule_filename=str(path))


LOOP = Contender("loop of send_task", 100_000, _loop)
LEADER = Contender("LeaderScheduler", 100_000, _leader, elects=True, early=EARLIEST)
OVERDUE_LOOP = Contender("loop over the entries", 100_000, _loop_of_entries)
OVERDUE = Contender("LeaderScheduler", 100_000, _overdue, elects=True)
PEERS = (
    Contender("Scheduler", 100_000, _one_by_one(_stock)),
    Contender("PersistentScheduler", 3_000, _one_by_one(_persistent)),
    Contender("RedBeat", 10_000, _redbeat),
    Contender("MultiBeat", 10_000, _one_by_one(_multibeat)),
)
CONTENDERS = (LOOP, LEADER, *PEERS)
