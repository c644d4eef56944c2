"""Wall clocks are set while real beats run: the leader's, Redis's, or both alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import SCHEDULER, Beat, leader_of, write_app
from tests.support.celery.inbox import Dispatch, Inbox, gaps
from tests.support.celery.periodic_workers import Workers
from tests.support.processes import Children
from tests.support.processes.shifted_clock import ShiftedClock, needs_compiler
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds

pytestmark = [needs_compiler, pytest.mark.timeout(150)]

STEP = 0.5
TICK = f'{{"tick": {{"task": "shop.work", "schedule": {STEP}, "kwargs": {{"entry": "tick"}}}}}}'
RARE = '{"rare": {"task": "shop.work", "schedule": 86400.0, "kwargs": {"entry": "rare"}}}'
TTL = 1.5
FAR = [-3600.0, -30.0, 20.0, 3600.0]
"""Seconds, by more than a leader may be off."""
LITTLE = 4.0
MIXED = """
from celery.beat import Scheduler
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Mixed(LeaderSchedulerMixin, Scheduler):
    pass
"""


def long(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.long)


class Clocks:
    """Two beats, and the Redis that is their broker too; each has a wall clock of its own."""

    def __init__(self, cleanup: ExitStack, folder: Path) -> None:
        self._cleanup, self._folder = cleanup, folder
        self._children = Children()
        cleanup.callback(self._children.close)
        self._clocks = {name: ShiftedClock(folder, name) for name in ("redis", "first", "second")}
        self.beats: list[Beat] = []

    def serve(self, ahead: float = 0.0) -> Server:
        """Start Redis, with all clocks so far ahead."""
        for clock in self._clocks.values():
            clock.set(ahead)
        self.server = Server(installed_kinds()[0], env=self._clocks["redis"].env)
        return self._cleanup.enter_context(self.server)

    def start(
        self,
        schedule: str = TICK,
        *,
        count: int = 2,
        broker: str = "",
        scheduler: str = SCHEDULER,
        **settings: Any,
    ) -> Beat:
        """Start beats, and Redis if it does not run; return the leader once it dispatches."""
        url = (self.server if broker else self.serve()).url
        write_app(self._folder, broker or url, schedule, more=MIXED, leader_ttl=TTL, **settings)
        if not broker:
            self.inbox = self._cleanup.enter_context(Inbox(url))
        leave_resigned(url, "shop", "beat")
        for name in ("first", "second")[:count]:
            env = self._clocks[name].env
            arguments = (self._children, self._folder, "--pidfile=")
            self.beats.append(Beat(*arguments, name=name, env=env, scheduler=scheduler))
        leader = leader_of(lambda: self.beats)
        for standby in self.beats:
            if standby is not leader:
                standby.wait_standing_by()
        ready = "Loaded the ledger" if scheduler == SCHEDULER else "read its store in"
        leader.child.wait_for_line(ready, 30)
        return leader

    def step(self, seconds: float, *whose: str) -> float:
        """Set clocks by name, all at once; return the moment."""
        for name in whose:
            self._clocks[name].step(seconds)
        return time.monotonic()

    def time(self, whose: str) -> float:
        return self._clocks[whose].time()

    def events(self, kind: str) -> list[str]:
        history: Any = self.server.client().xrange(ElectionKeys("shop", "beat").history)
        return [fields["reason"] for _, fields in history if fields["event"] == kind]

    def stood_down(self) -> list[str]:
        return [reason for reason in self.events("resigned") if reason != "resigned"]


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Clocks]:
    with ExitStack() as cleanup:
        yield Clocks(cleanup, tmp_path)


def passes(sent: list[Dispatch]) -> list[list[Dispatch]]:
    """Split what was sent, in its order, where its moments go back."""
    split: list[list[Dispatch]] = [[]]
    for one in sent:
        if split[-1] and one.covers[1] < split[-1][-1].covers[1] - 1_000_000:
            split.append([])
        split[-1].append(one)
    return split


def check(clocks: Clocks, *, most_passes: int = 1) -> None:
    """Check that nothing is missing and nothing came twice."""
    found = passes(clocks.inbox.sent())
    assert len(found) <= most_passes
    assert [gaps(each, STEP) for each in found] == [[]] * len(found)
    ids = [one.task_id for each in found for one in each]
    assert len(set(ids)) == len(ids)


def check_calm(clocks: Clocks, since: float) -> None:
    """Check that dispatching goes on, without a change of leader."""
    clocks.inbox.wait_for(4, 60, since=since)
    elections = len(clocks.events("elected"))
    clocks.inbox.wait_for(12, since=time.monotonic())
    assert len(clocks.events("elected")) == elections


@pytest.mark.parametrize("step", [*FAR[:1], *map(long, FAR[1:2]), FAR[2], *map(long, FAR[3:])])
def test_a_leader_whose_clock_is_set_far_off_makes_another_lead(
    clocks: Clocks, step: float
) -> None:
    leader = clocks.start()
    clocks.inbox.wait_for(3)
    clocks.step(step, leader.name)
    other = leader_of(lambda: clocks.beats, 60, other_than=leader)
    sent = clocks.inbox.wait_for(6, 60, since=time.monotonic(), pid=other.pid)
    # A step forward may end the lease before anybody has looked at the clock.
    assert set(clocks.stood_down()) <= {"stood_down:clock"}
    check(clocks)
    # The wrong clock moved nothing: the last run's moment is the present.
    assert abs(sent[-1].covers[1] / 1e6 - time.time()) < 5.0


@pytest.mark.parametrize("step", [-3600.0, long(-300.0)])
def test_a_beat_that_is_alone_goes_on_by_its_own_clock(clocks: Clocks, step: float) -> None:
    alone = clocks.start(count=1)
    clocks.inbox.wait_for(3)
    stepped = clocks.step(step, alone.name)
    alone.child.wait_for_line("no other beat does better", 30)
    check_calm(clocks, stepped)
    assert clocks.stood_down() == ["stood_down:clock"]
    check(clocks, most_passes=2)
    assert abs(clocks.inbox.sent()[-1].covers[1] / 1e6 - clocks.time(alone.name)) < 5.0
    # And back again.
    mended = clocks.step(-step, alone.name)
    check_calm(clocks, mended)
    assert clocks.stood_down() == ["stood_down:clock"]


@pytest.mark.parametrize("step", [*map(long, FAR[:1]), *FAR[1:2], *map(long, FAR[2:])])
def test_redis_whose_clock_is_set_far_off_is_found_out(clocks: Clocks, step: float) -> None:
    clocks.start()
    clocks.inbox.wait_for(3)
    stepped = clocks.step(step, "redis")
    wait_until(
        lambda: any(beat.lines("no other beat does better") for beat in clocks.beats),
        60,
        lambda: "\n".join(beat.child.output for beat in clocks.beats),
    )
    check_calm(clocks, stepped)
    stood_down = clocks.stood_down()
    assert set(stood_down) == {"stood_down:clock"}
    assert len(stood_down) <= 3
    check(clocks)
    assert abs(clocks.inbox.sent()[-1].covers[1] / 1e6 - time.time()) < 5.0


@pytest.mark.parametrize("step", [FAR[0], *map(long, FAR[1:3]), FAR[3]])
def test_a_leader_and_redis_whose_clocks_are_set_alike_go_on(clocks: Clocks, step: float) -> None:
    leader = clocks.start()
    clocks.inbox.wait_for(3)
    stepped = clocks.step(step, leader.name, "redis")
    # A step forward may end the lease. Who leads then by another clock lets this one lead.
    leader_of(lambda: clocks.beats, 60)
    clocks.inbox.wait_for(6, 60, since=stepped + 2 * TTL, pid=leader.pid)
    check_calm(clocks, time.monotonic())
    assert set(clocks.stood_down()) <= {"stood_down:clock"}
    check(clocks, most_passes=2 if step < 0 else 1)
    now = clocks.time("redis")
    assert abs(clocks.inbox.sent()[-1].covers[1] / 1e6 - now) < 5.0


@pytest.mark.parametrize(
    ("step", "whose"),
    [
        (LITTLE, ["first"]),
        *(long(LITTLE, whose) for whose in (["redis"], ["first", "redis"])),
        *(long(-LITTLE, whose) for whose in (["first"], ["redis"], ["first", "redis"])),
    ],
)
def test_a_clock_that_is_set_a_little_is_followed(
    clocks: Clocks, step: float, whose: list[str]
) -> None:
    leader = clocks.start(count=1)
    clocks.inbox.wait_for(3)
    stepped = clocks.step(step, *whose)
    check_calm(clocks, stepped)
    assert clocks.stood_down() == []
    check(clocks)
    assert bool(leader.lines("This machine's wall clock was set")) is ("first" in whose)


@pytest.mark.parametrize("whose", ["leader", "redis"])
@pytest.mark.parametrize("step", [-30.0, long(3600.0)])
def test_a_wrong_clock_is_noticed_while_nothing_is_due(
    clocks: Clocks, whose: str, step: float
) -> None:
    leader = clocks.start(RARE)
    stepped = clocks.step(step, leader.name if whose == "leader" else "redis")
    wait_until(
        lambda: clocks.stood_down() or leader_of(lambda: clocks.beats, 60) is not leader,
        60,
        lambda: leader.child.output,
    )
    assert set(clocks.stood_down()) <= {"stood_down:clock"}
    if step < 0:
        assert clocks.stood_down()
        assert clocks.inbox.sent(since=stepped) == []


@pytest.mark.long
@pytest.mark.parametrize("step", FAR)
def test_a_scheduler_of_others_lets_another_beat_lead_whose_clock_is_right(
    clocks: Clocks, step: float
) -> None:
    leader = clocks.start(scheduler="app.Mixed")
    clocks.inbox.wait_for(3)
    clocks.step(step, leader.name)
    other = leader_of(lambda: clocks.beats, 60, other_than=leader)
    clocks.inbox.wait_for(6, 60, since=time.monotonic(), pid=other.pid)
    assert set(clocks.stood_down()) <= {"stood_down:clock"}
    if step < 0:
        assert clocks.stood_down()


@pytest.mark.long
@pytest.mark.parametrize("step", FAR)
def test_one_of_others_goes_on_where_redis_is_wrong(clocks: Clocks, step: float) -> None:
    clocks.start(scheduler="app.Mixed")
    clocks.inbox.wait_for(3)
    stepped = clocks.step(step, "redis")
    wait_until(
        lambda: any(beat.lines("no other beat does better") for beat in clocks.beats),
        60,
        lambda: "\n".join(beat.child.output for beat in clocks.beats),
    )
    check_calm(clocks, stepped)
    assert set(clocks.stood_down()) == {"stood_down:clock"}


CRONTAB = (
    '{"minutely": {"task": "shop.work", "schedule": crontab(), "kwargs": {"entry": "minutely"}}}'
)


def test_crontab_moments_that_come_again_are_executed_again(
    clocks: Clocks, tmp_path: Path, children: Children
) -> None:
    # A minute begins in some seconds, and again after both clocks were set back. By write-ahead,
    # so that workers ask whether a run was accepted before.
    server = clocks.serve(54.0 - time.time() % 60)
    broker = server.url.removesuffix("/0") + "/1"
    workers = Workers(children, tmp_path / "worker", broker, leader_url=server.url)
    try:
        worker = workers.start(pool="solo")
        leader = clocks.start(
            CRONTAB,
            count=1,
            broker=broker,
            leader_url=server.url,
            task_default_queue=workers.queue,
        )
        [first] = workers.wait_for_runs(1, timeout=90)
        clocks.step(-12.0, leader.name, "redis")
        again = workers.wait_for_runs(2, timeout=90)[1]
        assert again.covers == first.covers
        assert again.id != first.id
        assert "Dropped" not in worker.output
        assert leader.lines("It continues from now")
    finally:
        children.close()
        workers.close()
