"""``celery worker -B``: of any number, the beat of the elected worker dispatches."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.celery.beats import write_app
from tests.support.celery.chaos import MICROSECONDS, problems
from tests.support.celery.embedded import SCHEDULER, Crew, alive, parent_of
from tests.support.celery.inbox import Inbox, gaps
from tests.support.celery.workers import Worker
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

TTL = 1.0
WAIT = 0.2
TAKEOVER = 1.01 * TTL + WAIT + 1.0
"""Seconds from the death of the leading worker to the next run."""
STEPS = {"often": 0.25, "seldom": 0.9}


@pytest.fixture
def crew(request: pytest.FixtureRequest, tmp_path: Path, valkey_server: Server) -> Iterator[Crew]:
    broker = rabbitmq_urls()[0] if getattr(request, "param", "") == "amqp" else ""
    url = valkey_server.url
    with Crew(tmp_path, url, STEPS, broker=broker, leader_ttl=TTL, leader_wait=WAIT) as made:
        yield made


def gone(pid: int) -> bool:
    return not alive(pid)


def check_runs(crew: Crew) -> int:
    """Check that each moment so far was served once; return how many runs that took."""
    until = time.time_ns() // 1000 - MICROSECONDS
    crew.wait_served(until)
    runs = crew.executions()
    assert problems(runs, crew.grids, until) == []
    assert crew.complaints() == []
    return len(runs)


@pytest.mark.parametrize(
    ("crew", "pool"),
    [
        ("redis", "prefork"),
        pytest.param("redis", "threads", marks=pytest.mark.long),
        pytest.param("redis", "solo", marks=pytest.mark.long),
        *[pytest.param("amqp", "prefork", marks=pytest.mark.long)] * bool(rabbitmq_urls()),
    ],
    indirect=["crew"],
)
def test_another_workers_beat_goes_on_whatever_becomes_of_the_leading_one(
    crew: Crew, measured: Callable[[str], None], pool: str
) -> None:
    crew.start_crew(3, "-P", pool)

    first = crew.dispatching()
    token = crew.token()
    told = time.time()
    first.child.signal(signal.SIGTERM)
    began = crew.wait_run(told, other_than=token).began
    assert first.child.wait(30) == 0, first.child.output
    assert not alive(first.beats[0])
    handover = began - max(run.began for run in crew.executions() if run.token == token)
    # No moment was left out between the two, see check_runs; how long it took is shown.
    assert began > told

    second = crew.dispatching(other_than=[first])
    token = crew.token()
    killed = time.time()
    os.kill(second.beats[0], signal.SIGKILL)
    second.child.wait_for_line("was killed by SIGKILL. This worker hands leadership over")
    without_beat = crew.wait_run(killed, other_than=token).began - killed
    assert second.wait_beat(2) != second.beats[0]

    third = crew.dispatching(other_than=[first, second])
    token = crew.token()
    beat, killed = third.beats[0], time.time()
    third.child.signal(signal.SIGKILL)
    wait_until(partial(gone, beat), 30, "the end of the beat")
    orphan = time.time() - killed
    takeover = crew.wait_run(killed, other_than=token).began - killed
    assert crew.dispatching(other_than=[first, third]) is second

    count = check_runs(crew)
    kind = crew.broker.partition(":")[0]
    measured(
        f"worker -B x 3 ({kind}, {pool}): SIGTERM of the leading worker: {handover:.2f} s from the "
        f"last run of its beat to the next one's first; SIGKILL of a beat alone: next run after "
        f"{without_beat:.2f} s; SIGKILL of the leading worker: after {takeover:.2f} s (limit "
        f"{TAKEOVER:.2f} s), its beat gone after {orphan:.2f} s; {count} runs, none lost "
        f"or executed twice"
    )


@pytest.mark.long
def test_a_beat_that_stands_still_is_replaced(crew: Crew) -> None:
    crew.start_crew(2)
    leading = crew.dispatching()
    os.kill(leading.beats[0], signal.SIGSTOP)
    leading.child.wait_for_line("gave no sign of life for 5 s and is killed", 30)
    assert crew.dispatching(5, other_than=[leading]).child.running
    wait_until(partial(gone, leading.beats[0]), 30, "the end of the beat that stood still")
    assert alive(leading.wait_beat(2))
    check_runs(crew)


@pytest.mark.long
def test_a_worker_that_stands_still_dispatches_no_longer(crew: Crew) -> None:
    # Its beat runs on, and must not believe any longer than the lease lasts.
    crew.start_crew(2)
    leading = crew.dispatching()
    token = crew.token()
    stopped = time.time()
    leading.child.pause()
    other = crew.dispatching(other_than=[leading])
    assert crew.wait_run(stopped + TTL, other_than=token).token > token
    leading.child.wait_for_line("embedded beat stands by")
    leading.child.resume()
    leading.child.wait_for_line("Demoted: no longer leader")
    assert other.leads
    check_runs(crew)


@pytest.mark.long
def test_the_beat_works_on_while_leader_only_tasks_finish(
    tmp_path: Path, valkey_server: Server
) -> None:
    more = """
from celery_safe_leader import leader_only

@app.task(name="shop.long")
@leader_only
def long():
    print("LONG began")
    time.sleep(6)
"""
    with Crew(
        tmp_path, valkey_server.url, STEPS, leader_ttl=TTL, leader_wait=WAIT, more=more
    ) as crew:
        crew.start_crew(2)
        leading = crew.dispatching()
        crew.call("shop.long")
        leading.child.wait_for_line("LONG began")
        token = crew.token()
        leading.child.signal(signal.SIGTERM)
        leading.child.wait_for_line("Warm shutdown")
        assert crew.wait_run(time.time() + 2).token == token
        assert leading.child.wait(30) == 0, leading.child.output
        assert crew.wait_run(time.time()).token > token
        assert "succeeded" in leading.child.output
        check_runs(crew)


@pytest.mark.long
def test_spawned_beats_follow_their_workers_too(tmp_path: Path, valkey_server: Server) -> None:
    with Crew(
        tmp_path,
        valkey_server.url,
        STEPS,
        leader_ttl=TTL,
        leader_wait=WAIT,
        worker_pool_start_method="spawn",
    ) as crew:
        crew.start_crew(2)
        # Whether the first one is forked or spawned, the second is spawned.
        for worker in crew.crew:
            os.kill(worker.beats[0], signal.SIGKILL)
        for worker in crew.crew:
            worker.wait_beat(2)
        leading = crew.dispatching()
        token, beat, killed = crew.token(), leading.beats[-1], time.time()
        leading.child.signal(signal.SIGKILL)
        wait_until(partial(gone, beat), 30, "the end of the beat")
        assert crew.wait_run(killed, other_than=token).token > token
        check_runs(crew)


def test_without_install_embedded_beats_elect_among_themselves(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    write_app(
        tmp_path,
        valkey_server.url,
        '{"tick": {"task": "shop.work", "schedule": 0.25}}',
        beat_scheduler=SCHEDULER,
        leader_ttl=TTL,
        leader_wait=WAIT,
    )
    with Inbox(valkey_server.url) as inbox:
        options = ("-B", "-c", "1", "-P", "solo", "-Q", "other")
        workers = [Worker(children, tmp_path, *options, name=f"w{n}") for n in range(2)]
        for worker in workers:
            worker.wait_ready()
        wait_until(
            lambda: len(inbox.sent()) >= 3,
            60,
            lambda: "\n\n".join(worker.child.output for worker in workers),
        )
        first = inbox.sent()[-1]
        leading, other = sorted(workers, key=lambda worker: worker.pid != parent_of(first.pid))
        other.child.wait_for_line("leads (token")
        leading.child.kill()
        wait_until(partial(gone, first.pid), 30, "the end of the beat")
        wait_until(lambda: inbox.sent()[-1].pid != first.pid, 30, lambda: other.child.output)
        sent = inbox.wait_for(2, since=time.monotonic())
        assert parent_of(sent[-1].pid) == other.pid
        assert gaps(inbox.sent(), 0.25) == []
        children.close()


def test_workers_without_a_beat_leave_the_election_to_those_with_one(crew: Crew) -> None:
    without = crew.start_worker("-c", "1", "-P", "solo", "-Q", f"{crew.queue}.other")
    without.wait_for_line("Elected leader of shop:worker", 30)
    crew.start_crew(1, "-P", "solo")
    leading = crew.dispatching()
    without.wait_for_line("it leaves the election to them")
    crew.token()
    # When no beat is left, the leader-only tasks go on.
    heard = len(without.lines)
    leading.child.kill()
    without.wait_for_line("takes part in the election again", 30, after=heard)
    without.wait_for_line("Elected leader of shop:worker", after=heard)
    assert crew.complaints() == []


@pytest.mark.long
def test_beats_of_both_kinds_do_not_dispatch_at_once(crew: Crew) -> None:
    alone = crew.start_beat()
    crew.leader()
    token = crew.token()
    crew.start_crew(1)
    worker = crew.dispatching().child
    worker.wait_for_line("Stand-alone beats and `worker -B` are mixed", 30)
    assert crew.token() == token
    alone.terminate()
    # It sees that the other's record stands still, and takes the ledger over.
    assert crew.wait_run(time.time(), other_than=token, timeout=10).token != token
    check_runs(crew)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_minutes_of_faults_of_workers_and_their_beats(
    crew: Crew, measured: Callable[[str], None]
) -> None:
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    choice = random.Random(seed)
    crew.start_crew(3)
    faults: Counter[str] = Counter()
    end = time.monotonic() + 120
    while time.monotonic() < end:
        leading = crew.dispatching(30)
        crew.token()
        time.sleep(choice.uniform(0.0, 1.0))  # at any point of a dispatch
        fault = choice.choice(["SIGKILL", "SIGTERM", "SIGSTOP", "SIGKILL of the beat"])
        faults[fault] += 1
        if fault == "SIGSTOP":
            leading.child.pause()
            time.sleep(3 * TTL)
            leading.child.resume()
        elif fault == "SIGKILL of the beat":
            os.kill(leading.beats[-1], signal.SIGKILL)
        else:
            leading.child.signal(signal.Signals[fault])
            leading.child.wait(30)
            wait_until(partial(gone, leading.beats[-1]), 30, "the end of the beat")
            crew.start_crew(1)
        time.sleep(1.0)
    crew.dispatching(30)
    count = check_runs(crew)
    measured(
        f"worker -B x 3, two minutes (seed {seed}): {faults.total()} faults {dict(faults)}, "
        f"{count} runs, none lost or executed twice, {crew.dropped} second publications dropped"
    )
