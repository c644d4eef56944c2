"""Leader-only calls while the leading worker is killed, paused and told to end, again and again."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.e2e.worker.stage import WorkerFleet
from tests.support.celery.effects import EFFECTS, Log, Producer
from tests.support.celery.workers import Worker, leader_of
from tests.support.processes import wait_until

TTL = 1.0
CHILDREN = 4
"""Processes in each worker's pool."""
LOAD = 0.75
"""How busy they are: enough for messages to wait for them after each fault."""
VISIBILITY = 8
"""Seconds after which a Redis broker gives the messages of a killed worker to another."""

FAULTS = ("SIGKILL", "SIGSTOP", "SIGTERM")
PATIENCE = 5.0
"""Seconds after which a worker that was told to end is killed, as whoever runs workers does.

Celery's warm shutdown of a pool of processes that has much to do may wait for a process for ever,
without leader election, too: 1 of 15 at 200 tasks a second with Celery 5.7.0.
"""


def strike(fleet: WorkerFleet, fault: str) -> bool:
    """Do it to the leading worker, wait for another leader, and have three workers again.

    Returns:
        Whether a worker was killed.
    """
    leader = leader_of(fleet.workers, 30)
    living = [worker for worker in fleet.workers if worker is not leader and worker.child.running]
    if fault == "SIGSTOP":
        # The whole machine, as it were: the pool's processes, too.
        os.killpg(leader.pid, signal.SIGSTOP)
        time.sleep(3 * TTL)
        leader_of(living, 30)
        os.killpg(leader.pid, signal.SIGCONT)
        return False
    leader.child.signal(signal.Signals[fault])
    fleet.start("-c", str(CHILDREN))
    leader_of([*living, fleet.workers[-1]], 30)
    if fault == "SIGTERM":
        with contextlib.suppress(AssertionError):
            return leader.child.wait(PATIENCE) != 0
        leader.child.kill()
    return True


def reached(log: Log, effects: int) -> bool:
    return log.written() >= effects


def tokens_of(workers: list[Worker]) -> dict[int, int]:
    """Return which worker's process was elected under which token."""
    elected = re.compile(r"Elected leader of .* \(token (\d+)\)")
    found: dict[int, int] = {}
    for worker in workers:
        for token in elected.findall(worker.child.output):
            assert found.setdefault(int(token), worker.pid) == worker.pid
    return found


def settle(fleet: WorkerFleet, sent: set[str]) -> set[str]:
    """Wait until every call has had its effect or is in the broker no longer; return the latter."""
    log, store = Log(fleet.store), fleet.store

    def settled() -> bool:
        return log.effects() >= sent

    if fleet.broker.startswith("amqp"):
        wait_until(settled, 60, lambda: f"{log.written()} effects of {len(sent)} calls")
        return set()
    # Of the messages that a worker had when it was killed, others take care every 100 s; one that
    # starts does so at once.
    deadline = time.monotonic() + 90
    while not settled() and (store.hlen("unacked") or store.llen(fleet.queue)):
        assert time.monotonic() < deadline, f"{log.written()} effects of {len(sent)} calls"
        waiting = store.llen(fleet.queue)
        time.sleep(1)
        if waiting == 0:
            helper = fleet.start("--no-leader", "-P", "solo", "-c", "1")
            helper.wait_ready()
            assert helper.child.stop(20) == 0
    return sent - log.effects()


def judge(
    fleet: WorkerFleet,
    producers: list[Producer],
    killed: int,
    paused: int,
    measured: Callable[[str], None],
) -> None:
    """Wait until every call has had its effect, and look at all that happened."""
    log = Log(fleet.store)
    sent, unknown, rates = set(), set(), []
    for producer in producers:
        some, unclear, seconds = producer.wait(30)
        sent |= some
        unknown |= unclear
        rates.append(len(some) / seconds)
    lost = settle(fleet, sent)
    # A worker that is killed takes along what it has just popped from a Redis list.
    allowed = 0 if fleet.broker.startswith("amqp") else killed
    runs = log.runs()
    late = sum(run.left <= 0 for run in runs)
    outcomes = Counter(run.outcome for run in runs)
    accepted = [run.token for run in runs if run.outcome != "refused"]
    measured(
        f"{len(sent)} leader-only calls by {sum(rates):.0f}/s ({len(unknown)} more of unknown "
        f"outcome), {len(fleet.workers)} workers, {killed} killed, {len(set(accepted))} tenures: "
        f"{len(lost)} lost; "
        f"{outcomes['written']} effects, {outcomes['again']} repeated runs and "
        f"{outcomes['refused']} under an old token without one; "
        f"{late} began as the lease ended"
    )
    assert len(lost) <= allowed
    assert log.effects() <= sent | unknown
    written = [run.call for run in runs if run.outcome == "written"]
    assert len(written) == len(set(written))
    assert accepted == sorted(accepted)
    # Whoever let a run in had been elected under that very token.
    elected = tokens_of(fleet.workers)
    assert all(elected[run.token] == run.pid for run in runs)
    # Its lease was valid then: only a pause or a death between guard and body shows another one.
    assert late <= CHILDREN * (paused + killed)
    for worker in fleet.workers:
        assert "Traceback" not in worker.child.output.replace("Refused(", ""), worker.child.output


def stage(fleet: WorkerFleet, rate: float) -> None:
    options = (
        {"confirm_publish": True}
        if fleet.broker.startswith("amqp")
        else {"visibility_timeout": VISIBILITY}
    )
    fleet.write(
        tasks=f"WORK = {LOAD * CHILDREN / rate}\n{EFFECTS}",
        leader_ttl=TTL,
        task_ignore_result=True,
        broker_transport_options=options,
    )
    for _ in range(3):
        fleet.start("-c", str(CHILDREN))
    for worker in fleet.workers:
        worker.wait_ready()
    leader_of(fleet.workers, 30)


def produce(fleet: WorkerFleet, *, rate: float, seconds: float) -> list[Producer]:
    return [
        Producer(fleet.children, fleet.folder, name, rate=rate / 2, seconds=seconds)
        for name in ("a", "b")
    ]


@pytest.mark.timeout(120)
def test_each_call_has_its_effect_once_whatever_happens_to_the_leader(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    stage(fleet, 100)
    producers = produce(fleet, rate=100, seconds=7)
    log = Log(fleet.store)
    killed = 0
    for fault in FAULTS:
        enough = log.written() + 20
        wait_until(functools.partial(reached, log, enough), 30, "some effects")
        killed += strike(fleet, fault)
    judge(fleet, producers, killed, 1, measured)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_each_call_has_its_effect_once_through_a_minute_of_faults(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    stage(fleet, 200)
    producers = produce(fleet, rate=200, seconds=60)
    killed = paused = 0
    deadline = time.monotonic() + 60
    for fault in itertools.cycle(FAULTS):
        time.sleep(1.5)
        if time.monotonic() >= deadline:
            break
        killed += strike(fleet, fault)
        paused += fault == "SIGSTOP"
    judge(fleet, producers, killed, paused, measured)
