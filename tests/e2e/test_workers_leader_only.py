"""Leader-only tasks on real workers: where they run, what they see, what becomes of the rest."""

from __future__ import annotations

import importlib.util
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, _state, chain, chord
from kombu.entity import Queue

from tests.support.processes import Children, wait_until
from tests.support.rabbitmq import rabbitmq_urls
from tests.support.servers import Server
from tests.support.workers import Worker, leader_of, write_worker_app

TASKS = """
from celery_safe_leader.tasks import current_leadership, leader_only

def main_process():
    return os.getpid() if POOL in ("solo", "threads", "gevent") else os.getppid()

@app.task(name="below", bind=True, autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.1})
@leader_only
def below(self, x):
    leadership = current_leadership()
    leadership.check()
    if x == "retry" and not self.request.retries:
        raise KeyError(x)
    return [main_process(), leadership.token, leadership.remaining(), leadership.candidate_id, x]

@leader_only(otherwise="skip")
@app.task(name="above")
def above(x):
    return main_process()

@leader_only(otherwise="fail")
@shared_task(name="shared-" + SUFFIX)
def shared(x):
    return main_process()

@app.task(name="total")
def total(values):
    return values

@leader_only
class Counted(app.Task):
    name = "counted"

    def run(self, x):
        return main_process()

counted = app.register_task(Counted())

@app.task(name="long", acks_late=True)
@leader_only
def long():
    leadership = current_leadership()
    store.rpush("long", f"began {leadership.token}")
    lost = leadership.lost.wait(20)
    at = time.monotonic()
    try:
        leadership.check()
    except Exception as error:
        store.rpush("long", f"lost {at} {type(error).__name__}")
        raise
"""

POOLS = ["prefork", "threads", "solo", "gevent"]


class Fleet:
    """Workers of one app, the app itself for calls, and the store of its marks."""

    def __init__(self, children: Children, folder: Path, server: Server, broker: str) -> None:
        self.children = children
        self.folder = folder
        self.server = server
        self.broker = broker
        self.workers: list[Worker] = []
        self.store = redis.Redis.from_url(server.url)
        self.suffix = uuid.uuid4().hex[:8]

    def write(self, pool: str = "prefork", **settings: Any) -> Any:
        """Write the app and import it, as a producer would."""
        names = {
            "task_default_queue": f"plain-{self.suffix}",
            "leader_queue": f"{self.suffix}.leader.shop",
            **settings,
        }
        more = f"POOL, SUFFIX = {pool!r}, {self.suffix!r}\n{TASKS}"
        write_worker_app(self.folder, self.broker, self.server.url, more=more, **names)
        spec = importlib.util.spec_from_file_location("app", self.folder / "app.py")
        assert spec is not None
        assert spec.loader is not None
        self.app = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.app)
        return self.app

    def start(self, *arguments: str) -> Worker:
        name = f"w{len(self.workers)}-{self.suffix}"
        options = arguments if "-c" in arguments else ("-c", "2", *arguments)
        worker = Worker(self.children, self.folder, *options, name=name)
        self.workers.append(worker)
        return worker

    def start_two(self, *arguments: str) -> tuple[Worker, Worker]:
        """Start two, and return leader and standby."""
        for _ in range(2):
            self.start(*arguments)
        leader = leader_of(self.workers, 25)
        (standby,) = (worker for worker in self.workers if worker is not leader)
        standby.wait_ready()
        return leader, standby

    def close(self) -> None:
        self.children.close()
        self.store.close()
        if self.broker.startswith("amqp"):
            with Celery(broker=self.broker).connection_for_write() as connection:
                for name in (f"plain-{self.suffix}", f"{self.suffix}.leader.shop"):
                    connection.default_channel.queue_delete(name)
                    connection.default_channel.exchange_delete(name)
        app = getattr(self, "app", None)
        if app is not None:
            app.store.close()
            app.app.close()


@pytest.fixture(autouse=True)
def _no_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tasks of one test out of the apps of the next: Celery shares them for ever."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))


@pytest.fixture(params=["redis", *["amqp"] * bool(rabbitmq_urls())])
def fleet(
    request: pytest.FixtureRequest, children: Children, tmp_path: Path, valkey_server: Server
) -> Iterator[Fleet]:
    broker = rabbitmq_urls()[0] if request.param == "amqp" else valkey_server.url
    made = Fleet(children, tmp_path, valkey_server, broker)
    yield made
    made.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pool", POOLS)
def test_every_form_of_the_decorator_runs_on_the_leader_only(fleet: Fleet, pool: str) -> None:
    app = fleet.write(pool)
    leader, _ = fleet.start_two("-P", pool)
    results = [
        task.delay(number) for number in range(5) for task in (app.above, app.shared, app.counted)
    ]
    assert {result.get(timeout=20) for result in results} == {leader.pid}
    where, token, remaining, candidate, x = app.below.delay("x").get(timeout=20)
    assert (where, x) == (leader.pid, "x")
    assert f"(token {token})" in leader.child.output
    assert f":{leader.pid}:" in candidate
    assert 0 < remaining <= 0.99
    # A retry goes back to the leader queue.
    assert app.below.delay("retry").get(timeout=20)[0] == leader.pid
    assert fleet.store.llen(f"{fleet.suffix}.leader.shop") == 0


@pytest.mark.timeout(120)
def test_pool_children_that_were_spawned_see_the_leadership(fleet: Fleet) -> None:
    app = fleet.write(worker_pool_start_method="spawn")
    leader, _ = fleet.start_two("-c", "1")
    results = [app.above.delay(number) for number in range(4)]
    assert {result.get(timeout=30) for result in results} == {leader.pid}


@pytest.mark.timeout(120)
def test_calls_by_name_alone_are_forwarded(fleet: Fleet) -> None:
    app = fleet.write()
    leader, _ = fleet.start_two()
    # As from a producer that knows only the name: to the queue that every worker consumes.
    queue = Queue(f"plain-{fleet.suffix}")
    names = ("above", app.shared.name, "counted")
    results = [
        app.app.send_task(name, (number,), queue=queue.name)
        for number in range(10)
        for name in names
    ]
    # skip and fail are for messages of the leader queue.
    assert {result.get(timeout=20) for result in results} == {leader.pid}
    assert "Forwarded" not in leader.child.output


@pytest.mark.timeout(120)
def test_calls_wait_in_the_broker_while_nobody_leads(fleet: Fleet) -> None:
    app = fleet.write()
    aside = fleet.start("--no-leader")
    aside.wait_ready()
    routed = app.counted.delay(1)
    named = app.app.send_task("counted", (2,), queue=f"plain-{fleet.suffix}")
    aside.child.wait_for_line("Forwarded counted", 10)
    time.sleep(2)
    assert aside.child.output.count("Forwarded counted") == 1
    assert routed.state == named.state == "PENDING"
    candidate = fleet.start()
    assert {routed.get(timeout=20), named.get(timeout=20)} == {candidate.pid}


@pytest.mark.timeout(120)
def test_a_worker_that_must_not_consume_the_queue_does_so_for_a_moment_only(fleet: Fleet) -> None:
    app = fleet.write()
    aside = fleet.start("--no-leader")
    aside.wait_ready()
    queue = f"{fleet.suffix}.leader.shop"
    assert app.app.control.add_consumer(queue, reply=True, timeout=5)
    result = app.counted.delay(1)
    aside.child.wait_for_line("Gave a message back", 10)
    time.sleep(2)
    assert aside.child.output.count("Gave a message back") == 1
    assert result.state == "PENDING"
    candidate = fleet.start()
    assert result.get(timeout=20) == candidate.pid


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("task", "outcome"), [("above", [None, 1]), ("shared", "NotLeaderError"), ("counted", "run")]
)
def test_chords_and_chains_end_whatever_becomes_of_their_members(
    fleet: Fleet, task: str, outcome: object
) -> None:
    app = fleet.write()
    # Children that do not see their worker's leadership: the worst that a guard can meet.
    blind = fleet.start("-c", "1")
    leader_of([blind], 25)
    member = getattr(app, task)
    if outcome != "run":
        _blind(blind)
    linked = chord([member.s(0), app.plain.s(1)], app.total.s()).delay()
    chained = chain(member.si(0), app.plain.si(2)).delay()
    if outcome == "NotLeaderError":
        for result in (linked, chained):
            with pytest.raises(Exception, match="does not lead"):
                result.get(timeout=10)
    elif outcome == "run":
        assert sorted(linked.get(timeout=10)) == [1, blind.pid]
        assert chained.get(timeout=10) == 2
    else:
        assert sorted(linked.get(timeout=10), key=str) == [1, None]
        assert chained.get(timeout=10) == 2


def _blind(worker: Worker) -> None:
    """Remove the worker's file before its children have looked at it."""
    (path,) = Path(tempfile.gettempdir()).glob(f"celery-safe-leader-{worker.pid}-*")
    path.unlink()


@pytest.mark.timeout(120)
def test_a_message_that_nobody_can_run_goes_round_slowly(fleet: Fleet) -> None:
    app = fleet.write()
    blind = fleet.start("-c", "1")
    leader_of([blind], 25)
    _blind(blind)
    app.counted.delay(1)
    blind.child.wait_for_line("for the 1. time", 10)
    began = time.monotonic()
    time.sleep(5)
    passes = blind.child.output.count("Forwarded counted")
    assert 2 <= passes <= 2 + 2 * (time.monotonic() - began) / 3
    assert "cannot see whether its worker leads shop:worker" in blind.child.output


@pytest.mark.timeout(120)
def test_a_task_notices_the_end_of_its_leadership(fleet: Fleet) -> None:
    app = fleet.write()
    leader = fleet.start()
    leader_of([leader], 25)
    app.long.delay()
    wait_until(lambda: fleet.store.llen("long") == 1, 10, "the task's beginning")
    leader.child.pause()
    time.sleep(1.2)
    # The worker stands still; its child sees the deadline pass all the same.
    wait_until(lambda: fleet.store.llen("long") == 2, 2, "the task's end")
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
    fleet = Fleet(children, tmp_path, valkey_server, valkey_server.url)
    app = fleet.write()
    assert call(app) > 0
    with pytest.raises(Exception, match="no leader-only task of a worker runs here"):
        app.below.apply(("x",), throw=True)
    assert fleet.store.keys("*leader*") == []
    fleet.close()
