"""``revoke_on_loss``: a running task ends with the leadership under which it began."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader.errors import LeadershipLostError
from tests.e2e.worker.stage import BROKERS, WorkerFleet
from tests.support.celery.workers import leader_of
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

OVER = "the lease expired: no renewal was confirmed in time"
TASKS = """
from celery_safe_leader._worker.leader_only import kill as endings
from celery_safe_leader.errors import LeadershipLostError
from celery_safe_leader.tasks import current_leadership, leader_only

endings.GRACE = 0.7

def begin(name):
    token = current_leadership().token
    return token, store.rpush(name, f"{os.getpid()} {token}")

@app.task(name="once")
@leader_only(revoke_on_loss=True)
def once():
    begin("once")
    time.sleep(60)

@app.task(name="again", acks_late=True)
@leader_only(revoke_on_loss=True)
def again():
    token, runs = begin("again")
    if runs == 1:
        time.sleep(60)
    return token

@app.task(name="skipped", acks_late=True)
@leader_only(otherwise="skip", revoke_on_loss=True)
def skipped():
    begin("skipped")
    time.sleep(60)

@app.task(name="retried", autoretry_for=(LeadershipLostError,), retry_kwargs={"countdown": 0.2})
@leader_only(revoke_on_loss=True)
def retried():
    token, runs = begin("retried")
    if runs == 1:
        time.sleep(60)
    return token

@app.task(name="checking", acks_late=True)
@leader_only(revoke_on_loss=True)
def checking():
    token, runs = begin("checking")
    until = time.monotonic() + 10
    while runs == 1 and time.monotonic() < until and not current_leadership().lost.is_set():
        time.sleep(0.01)
    time.sleep(0.3)
    store.rpush("checking", "not interrupted")
    current_leadership().check()
    return token

@app.task(name="stubborn")
@leader_only(revoke_on_loss=True)
def stubborn():
    begin("stubborn")
    while True:
        try:
            time.sleep(60)
        except Exception:
            store.rpush("stubborn", "swallowed")

@app.task(name="stubborn_again", acks_late=True)
@leader_only(revoke_on_loss=True)
def stubborn_again():
    token, runs = begin("stubborn_again")
    while runs == 1:
        try:
            time.sleep(60)
        except Exception:
            pass
    return token
"""


class SeverableFleet(WorkerFleet):
    """Workers whose election can be cut off from Redis."""

    def __init__(self, children: Children, folder: Path, server: Server, broker: str) -> None:
        super().__init__(children, folder, server, broker)
        self.link = Proxy(server.port)

    def write_ours(self, **settings: Any) -> Any:
        """Write the app with the tasks of this file, and import it."""
        return self.write(tasks=TASKS, leader_url=self.link.url(), **settings)

    def marks(self, name: str) -> list[str]:
        marks: Any = self.store.lrange(name, 0, -1)
        return [mark.decode() for mark in marks]

    def wait_begun(self, name: str, runs: int = 1) -> None:
        wait_until(lambda: len(self.marks(name)) >= runs, 30, f"{runs} runs of {name}")

    def close(self) -> None:
        super().close()
        self.link.close()


def on(short: str) -> Any:
    """Run a test with each broker that is there, but with others than one in the long run only."""
    short = short if short in BROKERS else "redis"
    long = [pytest.param(name, marks=pytest.mark.long) for name in BROKERS if name != short]
    return pytest.mark.parametrize("stage", [short, *long], indirect=True)


@pytest.fixture(params=BROKERS)
def stage(
    request: pytest.FixtureRequest,
    children: Children,
    tmp_path: Path,
    valkey_server: Server,
) -> Iterator[SeverableFleet]:
    broker = rabbitmq_urls()[0] if request.param == "amqp" else valkey_server.url
    made = SeverableFleet(children, tmp_path, valkey_server, broker)
    yield made
    for worker in made.workers:
        print(worker.name, worker.child.output, sep="\n")  # shown if the test has failed
    made.close()


def failed(result: Any) -> LeadershipLostError:
    with pytest.raises(LeadershipLostError) as caught:
        result.get(timeout=20)
    return caught.value


@pytest.mark.timeout(120)
@on("amqp")
def test_tasks_end_with_the_lease_and_may_run_again_under_the_next(stage: SeverableFleet) -> None:
    app = stage.write_ours()
    worker = stage.start("-c", "6")
    leader_of([worker], 30)
    tasks = (app.once, app.skipped, app.again, app.retried, app.stubborn, app.stubborn_again)
    once, skipped, again, retried, stubborn, stubborn_again = (task.delay() for task in tasks)
    for task in tasks:
        stage.wait_begun(task.name)
    stage.link.black_hole()
    error = failed(once)
    assert (error.key, error.reason) == ("shop:worker", OVER)
    assert stage.marks("once")[0].split()[1] == str(error.fencing_token)
    # acks_late does not bring a task back whose rule it is to be left out.
    assert failed(skipped).args == error.args
    wait_until(lambda: again.state == "RETRY", 30, "the mark in the result")
    assert isinstance(again.result, LeadershipLostError)
    # These two swallow the error, and are ended with their processes; the others are let alone.
    wait_until(lambda: "swallowed" in stage.marks("stubborn"), 30, "the interruption")
    assert app.plain.delay(1).get(timeout=30) == 1
    assert failed(stubborn).args == error.args
    wait_until(lambda: stubborn_again.state == "RETRY", 30, "the mark in the result")
    assert worker.child.output.count("is killed") == 2
    # Nobody leads: the messages wait in the broker.
    assert len(stage.marks("again")) == len(stage.marks("stubborn_again")) == 1
    stage.link.heal()
    assert again.get(timeout=30) == stubborn_again.get(timeout=30) > error.fencing_token
    assert retried.get(timeout=30) > error.fencing_token
    runs = [len(stage.marks(task.name)) for task in tasks if task is not app.stubborn]
    assert runs == [1, 1, 2, 2, 2]
    assert worker.child.output.count("Ended ") == 4


@pytest.mark.timeout(120)
@on("redis")
def test_a_planned_handover_ends_what_outlasts_the_patience(stage: SeverableFleet) -> None:
    app = stage.write_ours(leader_drain_timeout=0.5)
    for _ in range(2):
        stage.start("-c", "3")
    leader = leader_of(stage.workers, 30)
    (other,) = (worker for worker in stage.workers if worker is not leader)
    other.wait_ready()
    tasks = (app.once, app.again, app.stubborn_again)
    once, again, stubborn = (task.delay() for task in tasks)
    for task in tasks:
        stage.wait_begun(task.name)
    leader.child.signal(signal.SIGTERM)
    error = failed(once)
    assert error.reason == "the worker resigned"
    assert again.get(timeout=30) == stubborn.get(timeout=30) > error.fencing_token
    assert [len(stage.marks(task.name)) for task in tasks] == [1, 2, 2]
    assert leader.child.wait(20) == 0


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_the_solo_pool_interrupts_its_task_as_well(stage: SeverableFleet) -> None:
    app = stage.write_ours()
    worker = stage.start("-P", "solo")
    leader_of([worker], 30)
    again = app.again.delay()
    stage.wait_begun("again")
    stage.link.black_hole()
    wait_until(lambda: again.state == "RETRY", 30, "the mark in the result")
    stage.link.heal()
    assert again.get(timeout=30) > 0
    once = app.once.delay()
    stage.wait_begun("once")
    stage.link.black_hole()
    assert failed(once).reason == OVER


@pytest.mark.long
@pytest.mark.parametrize("pool", ["threads", "gevent"])
def test_a_pool_that_cannot_interrupt_leaves_it_to_check(stage: SeverableFleet, pool: str) -> None:
    app = stage.write_ours()
    worker = stage.start("-P", pool, "-c", "2")
    leader_of([worker], 30)
    checking = app.checking.delay()
    stage.wait_begun("checking")
    stage.link.black_hole()
    wait_until(lambda: checking.state == "RETRY", 30, "the mark in the result")
    assert stage.marks("checking")[1:] == ["not interrupted"]
    stage.link.heal()
    assert checking.get(timeout=30) > 0
    assert len(stage.marks("checking")) == 4
    assert worker.child.output.count("cannot interrupt a task") == 1


@pytest.mark.long
@pytest.mark.parametrize("stage", ["redis"], indirect=True)
def test_children_that_were_spawned_are_interrupted_and_ended_as_well(
    stage: SeverableFleet,
) -> None:
    app = stage.write_ours(worker_pool_start_method="spawn")
    worker = stage.start("-c", "2")
    leader_of([worker], 30)
    again, stubborn = app.again.delay(), app.stubborn.delay()
    stage.wait_begun("again")
    stage.wait_begun("stubborn")
    stage.link.black_hole()
    assert failed(stubborn).reason == OVER
    wait_until(lambda: again.state == "RETRY", 30, "the mark in the result")
    stage.link.heal()
    assert again.get(timeout=30) > 0
