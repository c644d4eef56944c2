"""Changes of leader, and what leadership costs: each promised time beside the measured one."""

from __future__ import annotations

import signal
import statistics
import tempfile
import time
import timeit
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from benchmarks.report import Report
from celery_safe_leader import create_safe_redis_leader
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._worker.dedup.inquirer import LONGEST_LIMIT, Inquirer
from celery_safe_leader._worker.dedup.strategies import FilteredStrategies
from tests.e2e.worker.stage import WorkerFleet
from tests.e2e.worker.test_rolling import handovers_of, roll
from tests.integration.worker.test_leadership import Office, notice_end
from tests.support.candidates.fleet import Candidate, Fleet
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.celery.embedded import Crew
from tests.support.celery.inbox import Inbox
from tests.support.celery.workers import leader_of as leading_worker
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds

__all__ = ["main"]

TTL, WAIT = 2.0, 0.4
TAKEOVER = 1000 * (1.01 * TTL + WAIT)
"""Milliseconds within which another leads after one that fell silent."""

_GUARD = """
from celery._state import _task_stack
from celery_safe_leader.tasks import leader_only

@app.task(name="empty")
@leader_only
def empty():
    return None

@app.task(name="measured")
@leader_only
def measured(rounds, calls):
    # As if the pool's process ran "empty" again and again, with and without the guard in turn.
    task = app.tasks["empty"]
    guarded, bare = task.run, task.run.__wrapped__
    found = []
    _task_stack.push(task)
    task.push_request(id="x", called_directly=False, is_eager=False, delivery_info={})
    try:
        for _ in range(rounds):
            times = []
            for run in (bare, guarded):
                # Of the processor, which others may need at the same time.
                begin = time.thread_time()
                for _ in range(calls):
                    run()
                times.append(time.thread_time() - begin)
            found.append((times[1] - times[0]) / calls)
    finally:
        task.pop_request()
        _task_stack.pop()
    return found
"""


def _ms(seconds: list[float]) -> list[float]:
    return [1000 * value for value in seconds]


def _say(report: Report, what: str, times: list[float]) -> None:
    report.say(f"{what}: " + " ".join(f"{value:.0f}" for value in sorted(times)) + " ms")


def _library(report: Report, count: int) -> None:
    """Three processes with a candidate each."""
    kind, children = installed_kinds()[0], Children()
    with Server(kind) as server:

        def start() -> Candidate:
            return Candidate(children, server.url, "changes", ttl=TTL, wait=WAIT)

        def change(end: Callable[[Candidate], float]) -> float:
            leader = fleet.leader()
            told = end(leader)
            successor = fleet.leader(other_than=leader)
            newcomer = start()
            newcomer.wait_ready()
            fleet.candidates.append(newcomer)
            time.sleep(2 * WAIT)  # it has looked, so that it can be woken
            return successor.tenures[-1].start - told

        try:
            leave_resigned(server.url, "changes")
            fleet = Fleet([start() for _ in range(3)])
            handovers = _ms([change(Candidate.terminate) for _ in range(count)])
            takeovers = _ms([change(Candidate.kill) for _ in range(2)])
        finally:
            children.close()
    _say(report, "candidates, SIGTERM", handovers)
    _say(report, "candidates, SIGKILL", takeovers)
    report.at_most("candidates: a handover, median", median(handovers), 50, " ms")
    report.at_most("candidates: a takeover, 1.01 ttl + wait", max(takeovers), TAKEOVER, " ms")


def _alone(report: Report) -> None:
    """A candidate whose Redis hangs, is away, and comes back."""
    with Server(installed_kinds()[0]) as server, Proxy(server.port) as link:
        leave_resigned(server.url, "alone")
        told: list[float] = []
        with create_safe_redis_leader(redis=link.url(), key="alone", ttl=TTL, wait=WAIT) as leader:
            leader.on("demoted", lambda _: told.append(time.monotonic()))
            leader.wait_until_leader(30)
            time.sleep(TTL)
            link.black_hole()
            deadline = leader.remaining + time.monotonic()
            wait_until(lambda: told)
            late = 1000 * (told[0] - deadline)
            link.heal()
            leader.wait_until_leader(30)
            server.kill()
            wait_until(lambda: not leader.is_leader)
            time.sleep(TTL)
            server.start()
            began = time.monotonic()
            leader.wait_until_leader(30)
            back = 1000 * (time.monotonic() - began)
            began = time.monotonic()
            leader.stop()
            stop = 1000 * (time.monotonic() - began)
    report.at_most("a demotion is told after the lease's end", late, 100, " ms")
    report.at_most("a leader after Redis came back empty", back, TAKEOVER + 500, " ms")
    report.at_most("stop() of a leader", stop, 100, " ms")


def _beats(report: Report, count: int) -> None:
    """Three beats, from the signal to the next one's first tick."""
    schedule = '{"tick": {"task": "shop.work", "schedule": 0.02, "kwargs": {"entry": "tick"}}}'
    children = Children()
    beats: list[Beat] = []
    with (
        tempfile.TemporaryDirectory() as name,
        Server(installed_kinds()[0]) as server,
        Inbox(server.url),
    ):
        folder = Path(name)
        write_app(folder, server.url, schedule, leader_ttl=TTL, leader_wait=WAIT)

        def start() -> None:
            beats.append(Beat(children, folder, name=f"beat {len(beats)}"))

        def change(end: Callable[[Beat], float]) -> float:
            leader = leader_of(lambda: beats)
            for beat in beats:
                if beat is not leader and not beat.ended:
                    beat.wait_standing_by()
            told = end(leader)
            successor = leader_of(lambda: beats, other_than=leader)
            tick = successor.child.wait_for_line("Loaded the ledger of").at - told
            start()
            return tick

        try:
            for _ in range(3):
                start()
            handovers = _ms([change(Beat.terminate) for _ in range(count)])
            takeovers = _ms([change(Beat.kill) for _ in range(2)])
        finally:
            children.close()
    _say(report, "beats, SIGTERM, to the next one's first tick", handovers)
    _say(report, "beats, SIGKILL", takeovers)
    report.at_most("beats: a handover, median", median(handovers), 50, " ms")
    report.at_most(
        "beats: a takeover, 1.01 ttl + wait + 0.2 s", max(takeovers), TAKEOVER + 200, " ms"
    )


def _workers(report: Report) -> None:
    """Workers that are restarted in turn, and what the guard costs a task."""
    children = Children()
    with tempfile.TemporaryDirectory() as name, Server(installed_kinds()[0]) as server:
        for part in ("roll", "guard"):
            folder = Path(name) / part
            folder.mkdir()
            fleet = WorkerFleet(children, folder, server, server.url)
            try:
                if part == "roll":
                    gaps = _ms(handovers_of(roll(fleet, 3)))
                else:
                    app = fleet.write(tasks=_GUARD)
                    leading_worker([fleet.start("-c", "1")], 60)
                    guard = statistics.median(app.measured.delay(200, 250).get(timeout=60))
            finally:
                fleet.close()
                children.close()
            server.client().flushall()
    _say(report, "workers, planned handovers, without a leader", gaps)
    report.at_most("workers: without a leader in a planned handover", max(gaps), 100, " ms")
    report.at_most("the guard of a leader-only task", 1e6 * guard, 5, " µs")


def _workers_with_beat(report: Report) -> None:
    """Three ``worker -B``: from the signal to the next run of an entry that is due each 0.25 s."""
    with tempfile.TemporaryDirectory() as name, Server(installed_kinds()[0]) as server:
        steps = {"often": 0.25, "seldom": 0.9}
        ttl, wait = 1.0, 0.2
        with Crew(
            Path(name), server.url, steps, leader_ttl=ttl, leader_wait=wait, leader_key="bench"
        ) as crew:
            crew.start_crew(3, "-P", "solo")
            first = crew.dispatching()
            token, told = crew.token(), time.time()
            first.child.signal(signal.SIGTERM)
            handover = 1000 * (crew.wait_run(told, other_than=token).began - told)
            first.child.wait()
            second = crew.dispatching(other_than=[first])
            token, told = crew.token(), time.time()
            second.child.signal(signal.SIGKILL)
            takeover = 1000 * (crew.wait_run(told, other_than=token).began - told)
    report.at_most("worker -B: next run after SIGTERM", handover, 1500, " ms")
    limit = 1000 * (1.01 * ttl + wait + 1.0)
    report.at_most(
        "worker -B: next run after SIGKILL, 1.01 ttl + wait + 1 s", takeover, limit, " ms"
    )


def _notices(report: Report) -> None:
    """How soon a task notices that its worker's lease has run out."""
    with Server(installed_kinds()[0]) as server:
        office = Office(server, f"office-{uuid.uuid4().hex[:8]}")
        try:
            noticed = []
            for _ in range(3):
                office.link.heal()
                noticed.append(notice_end(office))
        finally:
            office.close()
    by_check = median(1000 * each.by_check for each in noticed)
    by_lost = median(1000 * each.by_lost for each in noticed)
    report.at_most("check() raises after the lease's end, median", by_check, 20, " ms")
    report.at_most("lost wakes after the lease's end, median", by_lost, 20, " ms")


def _acceptance(report: Report) -> None:
    """What a Redis that hangs costs the periodic runs of a worker, and the guard the others."""
    with Server(installed_kinds()[0]) as server:
        client = make_client(server.url, connect_timeout=1, read_timeout=LONGEST_LIMIT)
        inquirer = Inquirer(client, "the server", "shop", 100.0)
        inquirer.start()
        server.pause()
        took = []
        for number in range(50):
            began = time.monotonic()
            inquirer.ask("shop", f"run-{number}", "a")
            took.append(1000 * (time.monotonic() - began))
        server.resume()
        inquirer.close()
    report.at_most("a Redis that hangs: the first periodic run waits", took[0], 100, " ms")
    report.at_most("a Redis that hangs: each other waits", max(took[1:]), 10, " ms")

    guard = SimpleNamespace(header="leader_publication", drops=lambda *_: False)
    strategies = FilteredStrategies(guard)
    strategies["x"] = plain = lambda message, body, ack, reject, callbacks: None
    guarded, message, calls = strategies["x"], SimpleNamespace(headers={"task": "x"}), 20_000

    def cost(handler: Any) -> float:
        each = lambda: handler(message, None, None, None, None)  # noqa: E731
        return 1e6 * min(timeit.repeat(each, number=calls, repeat=7)) / calls

    report.at_most("an ordinary message in a worker, more", cost(guarded) - cost(plain), 1, " µs")


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    count = 3 if quick else 9
    _alone(report)
    _notices(report)
    _acceptance(report)
    _library(report, count)
    _beats(report, count)
    _workers(report)
    _workers_with_beat(report)
