"""Leader-only calls that a worker has taken and not begun run elsewhere once it no longer leads."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.e2e.worker.stage import TASKS, WorkerFleet
from tests.integration.operations.commands import invoke
from tests.support.celery.workers import Worker, leader_of, wait_listening
from tests.support.processes import wait_until

HOLD = """
@app.task(name="hold")
def hold():
    store.rpush("order", "hold begins")
    deadline = time.monotonic() + 60
    while not store.exists("go") and time.monotonic() < deadline:
        time.sleep(0.05)

@app.task(name="ordinary")
def ordinary():
    store.rpush("order", "ordinary")

@app.task(name="alone")
@leader_only
def alone(x):
    current_leadership().check()
    store.rpush("order", f"{main_process()} {x}")

@app.task(name="skipped")
@leader_only(otherwise="skip")
def skipped():
    store.rpush("order", "skipped ran")
"""
CALLS = ["first", "second", "mapped"]
SENT = ["first", "second", "third"]


def order(fleet: WorkerFleet) -> list[str]:
    found: Any = fleet.store.lrange("order", 0, -1)
    return [line.decode() for line in found]


def calls_run(fleet: WorkerFleet) -> list[str]:
    return [line for line in order(fleet) if line[0].isdigit()]


def held(fleet: WorkerFleet, pool: str) -> tuple[Any, Worker, Worker]:
    """Return the app, a leader whose one process or thread is held, and one that takes no other."""
    app = fleet.write(pool, tasks=TASKS + HOLD, worker_prefetch_multiplier=20)
    leader = fleet.start("-P", pool, "-c", "1")
    leader_of([leader])
    standby = fleet.start("-P", pool, "-c", "1", "-Q", fleet.spare)
    standby.child.wait_for_line("leads (takes over", 30)
    wait_listening(app.app, fleet.workers)
    app.hold.delay()
    wait_until(lambda: order(fleet) == ["hold begins"], 30, lambda: leader.child.output)
    return app, leader, standby


def with_calls_behind_a_long_task(
    fleet: WorkerFleet, pool: str = "prefork"
) -> tuple[Any, Worker, Worker]:
    """Return the same with a leader that has taken calls."""
    app, leader, standby = held(fleet, pool)
    app.ordinary.delay()
    app.alone.delay("first")
    app.alone.delay("second")
    app.alone.map(["mapped"]).delay()
    app.skipped.delay()
    app.ordinary.delay()
    for name, count in (("ordinary", 2), ("alone", 2), ("celery.map", 1), ("skipped", 1)):
        lines = f"Task {name}["
        wait_until(
            lambda: sum(lines in line for line in leader.child.lines) == count,  # noqa: B023
            30,
            lambda: leader.child.output,
        )
    return app, leader, standby


def with_calls_behind_an_ordinary_one(fleet: WorkerFleet, pool: str) -> tuple[Any, Worker, Worker]:
    """Return the same, with a task and ``SENT`` on their way to the leader."""
    app, leader, standby = held(fleet, pool)
    app.ordinary.delay()
    for call in SENT:
        app.alone.delay(call)
    return app, leader, standby


def run_a_last_call(fleet: WorkerFleet, app: Any, standby: Worker) -> None:
    """Send a call, and wait until the next leader has run it: what was on the way is over then."""
    app.alone.delay("end")
    wait_until(lambda: f"{standby.pid} end" in order(fleet), 30, lambda: f"{order(fleet)}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_calls_that_wait_run_on_the_next_leader_while_its_predecessor_is_busy(
    fleet: WorkerFleet, pool: str
) -> None:
    app, leader, standby = with_calls_behind_a_long_task(fleet, pool)
    found = invoke(fleet.server.url, "shop", "resign", "--role", "worker", "--by", "ann")
    assert found.code == 0, found.output
    assert leader_of(fleet.workers, other_than=leader) is standby
    expected = [f"{standby.pid} {call}" for call in CALLS]
    wait_until(lambda: sorted(order(fleet)[1:]) == sorted(expected), 30, lambda: f"{order(fleet)}")
    fleet.store.set("go", "go")
    wait_until(lambda: order(fleet).count("ordinary") == 2, 30, lambda: leader.child.output)
    # What is to be skipped elsewhere was skipped in its turn, and what went back did not run again.
    leader.child.wait_for_line("Skipped skipped", 30)
    app.alone.delay("last")
    wait_until(lambda: f"{standby.pid} last" in order(fleet), 30, lambda: f"{order(fleet)}")
    assert sorted(order(fleet)) == sorted(
        ["hold begins", *expected, *["ordinary"] * 2, f"{standby.pid} last"]
    )
    inspect = app.app.control.inspect(destination=[f"{leader.name}@test"], timeout=10)
    idle: dict[str, list[object]] = {f"{leader.name}@test": []}
    wait_until(lambda: inspect.reserved() == inspect.active() == idle, 30, "an idle worker")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_warm_shutdown_does_not_keep_calls_until_other_tasks_end(
    fleet: WorkerFleet, pool: str
) -> None:
    _, leader, standby = with_calls_behind_a_long_task(fleet, pool)
    leader.child.signal(signal.SIGTERM)
    expected = {f"{standby.pid} {call}" for call in CALLS}
    wait_until(lambda: expected <= set(order(fleet)), 30, lambda: leader.child.output)
    assert leader.child.running
    fleet.store.set("go", "go")
    assert leader.child.wait(60) == 0
    assert len([line for line in order(fleet) if line.endswith(tuple(CALLS))]) == len(CALLS)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", ["solo", "gevent"])
def test_a_worker_whose_loop_waits_for_a_task_hands_over_when_it_is_told_to_end(
    fleet: WorkerFleet, pool: str
) -> None:
    app, leader, standby = with_calls_behind_an_ordinary_one(fleet, pool)
    if pool == "gevent":
        leader.child.wait_for_line("Task ordinary[", 30)  # waits for a greenlet, and its loop too
    leader.child.signal(signal.SIGTERM)
    assert leader_of(fleet.workers, other_than=leader) is standby
    # RabbitMQ gives every other one to the worker that has not been able to cancel.
    for call in ("fourth", "fifth"):
        app.alone.delay(call)
    wait_until(lambda: str(standby.pid) in f"{order(fleet)}", 30, lambda: f"{order(fleet)}")
    assert leader.child.running
    fleet.store.set("go", "go")
    assert leader.child.wait(60) == 0
    expected = [f"{standby.pid} {call}" for call in (*SENT, "fourth", "fifth")]
    wait_until(lambda: set(expected) <= set(order(fleet)), 30, lambda: f"{order(fleet)}")
    run_a_last_call(fleet, app, standby)
    assert sorted(calls_run(fleet)) == sorted([*expected, f"{standby.pid} end"])


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["threads", "gevent", "solo"])
def test_a_cold_shutdown_of_a_busy_worker_neither_loses_nor_doubles_calls(
    fleet: WorkerFleet, pool: str
) -> None:
    app, leader, standby = with_calls_behind_an_ordinary_one(fleet, pool)
    if pool == "threads":
        leader.child.wait_for_line("Task alone[", 30)
    elif pool == "gevent":
        # A signal that meets Celery while it sends an event may be its end, without us too.
        inspect = app.app.control.inspect([f"{leader.name}@test"], timeout=10, limit=1)
        wait_until(lambda: "ordinary" in f"{inspect.reserved()}", 30, lambda: leader.child.output)
    leader.child.signal(signal.SIGQUIT)
    assert leader_of(fleet.workers, other_than=leader) is standby
    # Nothing ends a thread: the process waits for its tasks, and what it has taken with it.
    assert leader.child.running or pool != "threads"
    fleet.store.set("go", "go")
    leader.child.wait(60)
    wait_until(lambda: len(calls_run(fleet)) >= len(SENT), 30, lambda: f"{order(fleet)}")
    run_a_last_call(fleet, app, standby)
    assert sorted(line.split()[1] for line in calls_run(fleet)) == sorted([*SENT, "end"])
    ran = [int(line.split()[0]) for line in calls_run(fleet)]
    if (pool, fleet.broker[:4]) == ("solo", "amqp"):
        # Celery reads what RabbitMQ has sent ahead, and a solo worker runs it, as long as it leads.
        first = [pid for pid in ran if pid == leader.pid]
        assert ran == first + [standby.pid] * (len(ran) - len(first))
    else:
        assert set(ran) == {standby.pid}


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_call_whose_time_comes_in_a_busy_demoted_worker_runs_on_the_next_leader(
    fleet: WorkerFleet, pool: str
) -> None:
    app, leader, standby = held(fleet, pool)
    app.alone.apply_async(("late",), countdown=20)
    leader.child.wait_for_line("Task alone[", 30)
    found = invoke(fleet.server.url, "shop", "resign", "--role", "worker", "--by", "ann")
    assert found.code == 0, found.output
    assert leader_of(fleet.workers, other_than=leader) is standby
    wait_until(lambda: f"{standby.pid} late" in order(fleet), 60, lambda: leader.child.output)
    leader.child.wait_for_line("Returned a message", 30)
    fleet.store.set("go", "go")
    app.alone.delay("last")
    wait_until(lambda: f"{standby.pid} last" in order(fleet), 30, lambda: f"{order(fleet)}")
    calls = [f"{standby.pid} late", f"{standby.pid} last"]
    assert order(fleet) == ["hold begins", *calls]
    inspect = app.app.control.inspect(destination=[f"{leader.name}@test"], timeout=10)
    assert inspect.scheduled() == {f"{leader.name}@test": []}
