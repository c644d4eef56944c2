"""Leader-only tasks on real workers: where they run, what they see, what becomes of the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord
from kombu.entity import Queue

from tests.e2e.worker.stage import WorkerFleet, blind
from tests.support.celery.workers import elected_at, leader_of, wait_listening
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

POOLS = ["prefork", "threads", "solo", "gevent"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", POOLS)
def test_every_form_of_the_decorator_runs_on_the_leader_only(fleet: WorkerFleet, pool: str) -> None:
    app = fleet.write(pool)
    leader, _ = fleet.start_two("-P", pool)
    # Without an event loop, as with gevent, nothing wakes a worker: it looks now and then.
    consumes = leader.child.wait_for_line(f"Started consuming from {fleet.queue}").at
    # Another thread writes the line of the election, so it may come a moment later.
    assert consumes > elected_at(leader) - 1
    results = [
        task.delay(number) for number in range(5) for task in (app.above, app.shared, app.counted)
    ]
    assert {result.get(timeout=30) for result in results} == {leader.pid}
    where, token, remaining, candidate, x = app.below.delay("x").get(timeout=30)
    assert (where, x) == (leader.pid, "x")
    assert f"(token {token})" in leader.child.output
    assert f":{leader.pid}:" in candidate
    assert 0 < remaining <= 0.99
    # A retry goes back to the leader queue.
    assert app.below.delay("retry").get(timeout=30)[0] == leader.pid
    assert fleet.store.llen(fleet.queue) == 0


@pytest.mark.timeout(120)
def test_pool_children_that_were_spawned_see_the_leadership(fleet: WorkerFleet) -> None:
    app = fleet.write(worker_pool_start_method="spawn")
    leader, _ = fleet.start_two("-c", "1")
    results = [app.above.delay(number) for number in range(4)]
    assert {result.get(timeout=30) for result in results} == {leader.pid}


@pytest.mark.timeout(120)
def test_calls_by_name_alone_are_forwarded(fleet: WorkerFleet) -> None:
    app = fleet.write()
    leader, _ = fleet.start_two()
    # As from a producer that knows only the name: to the queue that every worker consumes.
    queue = Queue(fleet.plain)
    names = ("above", app.shared.name, "counted")
    results = [
        app.app.send_task(name, (number,), queue=queue.name)
        for number in range(10)
        for name in names
    ]
    # skip and fail are for messages of the leader queue.
    assert {result.get(timeout=30) for result in results} == {leader.pid}
    assert "Forwarded" not in leader.child.output


@pytest.mark.timeout(120)
def test_calls_wait_in_the_broker_while_nobody_leads(fleet: WorkerFleet) -> None:
    app = fleet.write()
    aside = fleet.start("--no-leader")
    aside.wait_ready()
    routed = app.counted.delay(1)
    named = app.app.send_task("counted", (2,), queue=fleet.plain)
    aside.child.wait_for_line("Forwarded counted", 30)
    time.sleep(2)
    assert aside.child.output.count("Forwarded counted") == 1
    assert routed.state == named.state == "PENDING"
    candidate = fleet.start()
    assert {routed.get(timeout=30), named.get(timeout=30)} == {candidate.pid}


@pytest.mark.timeout(120)
def test_a_worker_that_must_not_consume_the_queue_does_so_for_a_moment_only(
    fleet: WorkerFleet,
) -> None:
    app = fleet.write()
    aside = [fleet.start("--no-leader", "-c", "1") for _ in range(2)]
    for worker in aside:
        worker.wait_ready()
    control = app.app.control
    wait_listening(app.app, aside)
    # There before they consume the queue: that moment may be over before another message comes.
    result = app.counted.delay(1)
    # Named: workers of other tests hear what is told to all on the same broker.
    names = [f"{worker.name}@test" for worker in aside]
    control.add_consumer(fleet.queue, destination=names)
    control.broadcast("sneak", arguments={"queue": fleet.queue}, destination=names)
    for worker in aside:
        worker.child.wait_for_line(f"Refused to consume {fleet.queue}")
    wait_until(lambda: sum("Returned a message" in w.child.output for w in aside), 30)
    time.sleep(2)
    assert all(worker.child.output.count("Returned a message") <= 1 for worker in aside)
    assert result.state == "PENDING"
    candidate = fleet.start()
    leader_of([candidate])
    assert result.get(timeout=30) == candidate.pid


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("task", "outcome"), [("above", [None, 1]), ("shared", "NotLeaderError"), ("counted", "run")]
)
def test_chords_and_chains_end_whatever_becomes_of_their_members(
    fleet: WorkerFleet, task: str, outcome: object
) -> None:
    app = fleet.write()
    # Children that do not see their worker's leadership: the worst that a guard can meet.
    leader = fleet.start("-c", "1")
    leader_of([leader], 30)
    member = getattr(app, task)
    if outcome != "run":
        blind(fleet)
    linked = chord([member.s(0), app.plain.s(1)], app.total.s()).delay()
    chained = chain(member.si(0), app.plain.si(2)).delay()
    if outcome == "NotLeaderError":
        for result in (linked, chained):
            with pytest.raises(Exception, match="does not lead"):
                result.get(timeout=10)
    elif outcome == "run":
        assert sorted(linked.get(timeout=30)) == [1, leader.pid]
        assert chained.get(timeout=30) == 2
    else:
        assert sorted(linked.get(timeout=30), key=str) == [1, None]
        assert chained.get(timeout=30) == 2


@pytest.mark.timeout(120)
def test_chords_and_chains_end_whose_members_were_forwarded(fleet: WorkerFleet) -> None:
    app = fleet.write()
    leader = fleet.start("-c", "1", "-Q", f"other-{fleet.suffix}")
    aside = fleet.start("-c", "1", "--no-leader")
    leader_of([leader], 30)
    # Sent by name, to a worker that never leads.
    members = [app.app.signature("counted", (x,), queue=fleet.plain) for x in range(2)]
    linked = chord(members, app.total.s()).delay()
    chained = chain(members[0].clone(), app.plain.si(2)).delay()
    assert linked.get(timeout=30) == [leader.pid, leader.pid]
    assert chained.get(timeout=30) == 2
    assert aside.child.output.count("Forwarded counted") == 3


@pytest.mark.timeout(120)
def test_a_message_that_nobody_can_run_goes_round_slowly(
    fleet: WorkerFleet, measured: Callable[[str], None]
) -> None:
    app = fleet.write()
    leader = fleet.start("-c", "1")
    leader_of([leader], 30)
    blind(fleet)
    app.counted.delay(1)
    began = time.monotonic()
    leader.child.wait_for_line("(forward #1)")
    time.sleep(3)

    def passed() -> int:
        return leader.child.output.count("Forwarded counted")

    wait_until(lambda: passed() >= 2, what="a second pass")
    passes, elapsed = passed(), time.monotonic() - began
    measured(f"a message that no process can run: {passes} passes in {elapsed:.1f} s")
    assert 2 <= passes < 2 * elapsed
    assert "cannot see whether its worker leads shop:worker" in leader.child.output


@pytest.mark.timeout(120)
def test_a_task_notices_the_end_of_its_leadership(fleet: WorkerFleet) -> None:
    app = fleet.write()
    leader = fleet.start()
    leader_of([leader], 30)
    app.long.delay()
    wait_until(lambda: fleet.store.llen("long") == 1, 30, "the task's beginning")
    leader.child.pause()
    time.sleep(1.2)
    # The worker stands still; its child sees the deadline pass all the same.
    wait_until(lambda: fleet.store.llen("long") == 2, what="the task's end")
    marks = [str(mark) for mark in fleet.store.lrange("long", 0, -1)]
    assert "LeadershipLostError" in marks[1]
    leader.child.resume()


def eagerly(app: Any) -> Any:
    app.app.conf.task_always_eager = True
    return app.above.delay(1).get()


@pytest.mark.parametrize(
    "call",
    [lambda app: app.above(1), lambda app: app.above.apply((1,)).get(), eagerly],
    ids=["directly", "apply", "eager"],
)
def test_without_a_worker_the_body_runs_and_nothing_is_sent(
    call: Callable[[Any], Any], children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    fleet = WorkerFleet(children, tmp_path, valkey_server, valkey_server.url)
    app = fleet.write()
    assert call(app) > 0
    with pytest.raises(Exception, match="no leader-only task of a worker runs here"):
        app.below.apply(("x",), throw=True)
    assert fleet.store.keys("*leader*") == []
    fleet.close()
