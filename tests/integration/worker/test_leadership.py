"""What a task sees of its worker's leadership is never more than what is true."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._worker.leader_only.leadership import (
    WHY_FOREIGN,
    Leadership,
    LeadershipReader,
)
from celery_safe_leader._worker.member import Member
from celery_safe_leader.errors import LeadershipLostError
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

TTL = 0.6
CLOCK = SystemClock()


class Office:
    """A worker's part in the election, and what its tasks see of it, in one process."""

    def __init__(self, server: Server, key: str) -> None:
        self.link = Proxy(server.port)
        app = Celery(key, broker=server.url, set_as_current=False)
        app.conf.update(leader_url=self.link.url(), leader_ttl=TTL, leader_wait=0.1)
        self.member = Member(conf.read(app), lambda: False)
        self.leader = self.member.leader
        self.place = LeadershipReader(app)

    def lead(self) -> Leadership:
        self.member.elect()  # does nothing while it takes part
        token = self.leader.wait_until_leader(30)
        found = None
        while found is None:
            found = self.place.read()
        assert found[1].fencing_token == token
        return Leadership(self.place, found[0], token)

    def close(self) -> None:
        self.link.heal()
        self.member.close()
        self.link.close()


@pytest.fixture
def office(quick_server: Server, key: str) -> Iterator[Office]:
    made = Office(quick_server, key)
    yield made
    made.close()


@pytest.fixture
def switching() -> Iterator[None]:
    """Let threads take turns at about each line, so that no moment is passed over."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("end", ["link lost", "resigned"])
def test_what_remains_is_never_above_the_truth(office: Office, end: str, switching: None) -> None:
    leadership, leader = office.lead(), office.leader
    ends = {
        "link lost": office.link.black_hole,
        "resigned": office.member.resign,
    }
    # After two renewals.
    threading.Timer(TTL, ends[end]).start()
    samples, renewed = 0, set()
    # And for a while after the end.
    until, ended = time.monotonic() + 20, False
    while time.monotonic() < until:
        led, now = leader.is_leader, CLOCK.now()
        remaining = leadership.remaining()
        # Read after it: within a tenure the deadline only moves on.
        lease = leader.lease
        if not led:
            if not ended:
                ended, until = True, time.monotonic() + 0.2
            assert remaining == 0
            assert leadership.lost.is_set()
        elif lease is not None:
            samples += 1
            renewed.add(lease.deadline.raw)
            assert lease.fencing_token == leadership.token
            assert remaining <= lease.remaining(now)
    assert samples > 100
    assert len(renewed) >= 2
    assert ended


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_no_task_believes_any_longer_when_the_resignation_is_sent(
    office: Office, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.lead()
    seen: list[object] = []
    send = getattr(office.leader, verb)

    def spied() -> None:
        seen.append(office.place.read())
        send()

    monkeypatch.setattr(office.leader, verb, spied)
    (office.member.resign if verb == "stop" else office.member.close)()
    assert seen == [None]


def test_a_tenure_that_is_over_stays_over_when_the_worker_is_elected_again(office: Office) -> None:
    first = office.lead()
    office.member.resign()
    second = office.lead()
    assert second.token > first.token
    assert second.remaining() > 0
    assert first.remaining() == 0
    assert first.lost.is_set()
    with pytest.raises(LeadershipLostError, match=f"elected again under token {second.token}"):
        first.check()
    second.check()


def test_check_and_lost_notice_the_deadline_and_not_before(office: Office) -> None:
    """How soon after it is measured by ``make bench``."""
    for _ in range(3):
        office.link.heal()
        noticed = notice_end(office)
        assert min(noticed.by_check, noticed.by_lost) >= -0.001
        # Asked after the deadline, it never answered that all is well.
        assert noticed.last_well <= 0.001


class Noticed(NamedTuple):
    """Moments in seconds from the deadline on."""

    last_well: float
    """When ``check()`` was last called and raised nothing."""
    by_check: float
    by_lost: float


def notice_end(office: Office) -> Noticed:
    """Cut a leader off; return when its task noticed that its leadership is over."""
    leadership = office.lead()
    woken: list[float] = []

    def wait() -> None:
        assert not leadership.lost.wait(0.01)
        assert leadership.lost.wait(10)
        woken.append(CLOCK.now().boottime)

    waiting = threading.Thread(target=wait)
    office.link.black_hole()
    waiting.start()
    deadline = raised = well = 0.0
    while not raised:
        now, remaining = CLOCK.now().boottime, leadership.remaining()
        asked = CLOCK.now().boottime
        try:
            leadership.check()
        except LeadershipLostError:
            raised = CLOCK.now().boottime
        else:
            # A little early, since the clock was read before; the latest is the closest.
            deadline, well = max(deadline, now + remaining), asked
        # As a task that works in between.
        time.sleep(0.001)
    waiting.join(30)
    return Noticed(well - deadline, raised - deadline, woken[0] - deadline)


def test_a_worker_that_stays_out_of_the_election_for_long_keeps_nothing_of_its_looks(
    quick_server: Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_safe_leader._worker.member._POLL", 0.001)
    office = Office(quick_server, key)
    try:
        office.lead()
        office.member.resign()
        looks, show = list[int](), office.member._show

        def counted() -> None:
            looks.append(1)
            show()

        monkeypatch.setattr(office.member, "_show", counted)
        wait_until(lambda: len(looks) > 200, what="looks at an election that goes on without it")
        assert len(office.leader._runner.changed._waiters) <= 2
    finally:
        office.close()


def test_who_is_elected_again_while_it_resigns_takes_part(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.lead()
    stop = office.leader.stop

    def overtaken() -> None:
        office.member.elect("why")
        stop()

    monkeypatch.setattr(office.leader, "stop", overtaken)
    office.member.resign("why")
    assert office.leader.active
    monkeypatch.setattr(office.leader, "stop", stop)
    office.member.resign("why")
    assert not office.leader.active


def test_each_close_of_a_worker_returns_at_the_end_of_the_first_one(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.lead()
    go_on, begun, shutdown = threading.Event(), threading.Event(), office.leader.shutdown

    def held_up() -> None:
        begun.set()
        assert go_on.wait(30)
        shutdown()

    monkeypatch.setattr(office.leader, "shutdown", held_up)
    closers = [threading.Thread(target=office.member.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    assert begun.wait(30)
    closers[1].join(0.2)
    assert all(closer.is_alive() for closer in closers)
    go_on.set()
    for closer in closers:
        closer.join(30)
    assert "closed" in repr(office.leader)


FORKED = """
import os, sys, time
from celery import Celery
from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime.embedded.board import Board
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._worker.leader_only.leadership import Leadership, LeadershipReader

board = Board("shop", "host:1:ab")
now = SystemClock().now()
later = Instant(now.boottime + 60, now.raw + 60, now.wall + 60)
board.write(Lease(7, later, now))
# A pool process, whose task forks: the one below is a child of the task's, not of the worker's.
if os.fork() == 0:
    leadership = Leadership(LeadershipReader(Celery("shop")), "host:1:ab", 7)
    assert leadership.remaining() > 0
    if os.fork() == 0:
        print(leadership.remaining(), leadership.loss(), flush=True)
        os._exit(0)
    os.wait()
    os._exit(0)
os.wait()
board.close()
"""


def test_a_process_that_a_task_forks_is_told_why_it_does_not_lead() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKED], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("0.0 leadership of 'shop:worker' under token 7 has ended")
    assert WHY_FOREIGN in done.stdout
