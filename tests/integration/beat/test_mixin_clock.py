"""Wall clocks that are off or set under a scheduler of others: the mixin compares them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler

from celery_safe_leader._schedules import moments
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

OFTEN, RARE = 0.2, 86_400.0
DOWN = ["stood_down:clock"]


class WallClock:
    """The package's wall clock: by so many seconds ahead of the real one."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time_ns(self) -> int:
        return time.time_ns() + round(self.ahead * 1e9)


class CountingScheduler(LeaderSchedulerMixin, Scheduler):
    """Counts how often it was set up."""

    begun = 0

    def setup_schedule(self) -> None:
        type(self).begun += 1
        super().setup_schedule()


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> WallClock:
    wall = WallClock()
    monkeypatch.setattr(moments, "time", wall)
    monkeypatch.setattr(CountingScheduler, "begun", 0)
    return wall


Make = Callable[[float], Any]


@pytest.fixture
def make(quick_server: Server, key: str) -> Iterator[Make]:
    made: list[Any] = []

    def build(every: float) -> Any:
        app = Celery(key, broker=quick_server.url, set_as_current=False)
        schedule = {"work": {"task": "shop.work", "schedule": every}}
        app.conf.update(
            leader_ttl=0.6, leader_wait=0.1, task_default_queue=key, beat_schedule=schedule
        )
        made.append(CountingScheduler(app))
        return made[-1]

    yield build
    for scheduler in made:
        scheduler.close()
    quick_server.client().delete(key)


def resigned(server: Server, key: str) -> list[str]:
    raw: Any = server.client().xrange(ElectionKeys(key, "beat").history)
    return [fields["reason"] for _, fields in raw if fields["event"] == "resigned"]


def tick_until(scheduler: Any, ready: Callable[[], Any]) -> None:
    wait_until(lambda: (scheduler.tick(), ready())[1], 30, interval=0.0)


@pytest.mark.parametrize("step", [-30.0, 3600.0])
def test_a_leader_whose_clock_is_set_far_off_stands_down_though_nothing_is_due(
    make: Make, wall: WallClock, quick_server: Server, key: str, step: float
) -> None:
    scheduler = make(RARE)
    tick_until(scheduler, lambda: scheduler.begun)
    wall.ahead = step
    tick_until(scheduler, lambda: resigned(quick_server, key))
    assert resigned(quick_server, key) == DOWN
    assert scheduler.begun == 1


def test_one_that_begins_with_a_wrong_clock_reads_no_store_unless_nobody_does_better(
    make: Make, wall: WallClock, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    wall.ahead = -3600.0
    scheduler = make(OFTEN)
    tick_until(scheduler, lambda: resigned(quick_server, key))
    assert scheduler.begun == 0
    tick_until(scheduler, lambda: quick_server.client().llen(key) >= 2)
    assert resigned(quick_server, key) == DOWN
    assert caplog.text.count("so that one with a correct clock can lead") == 1
    assert caplog.text.count("and no other beat does better") == 1
    # And it goes behind nobody any more.
    assert not scheduler._leader_mixin.goes_last


def test_a_small_step_lets_it_read_its_store_again(
    make: Make, wall: WallClock, quick_server: Server, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make(RARE)
    tick_until(scheduler, lambda: scheduler.begun)
    wall.ahead = 4.0
    tick_until(scheduler, lambda: scheduler.begun == 2)
    said = "This machine's wall clock was set: CountingScheduler reads its store again"
    assert caplog.messages.count(said) == 1
    assert resigned(quick_server, key) == []
    assert scheduler.is_leader
