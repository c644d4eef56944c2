"""First publication wins, in real workers on real brokers."""

from __future__ import annotations

import contextlib
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import LedgerKeys
from tests.support.celery.periodic_workers import Workers
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.processes.child import Child
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rabbitmq import rabbitmq_urls

POOLS = ["prefork", "threads", "solo", "gevent"]
DROPPED = "Dropped a second publication of periodic run"


@pytest.fixture(scope="module")
def store() -> Iterator[Server]:
    """The election's server."""
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture
def broker(request: pytest.FixtureRequest, store: Server) -> str:
    """The URL of a broker: the election's server, unless a test asks for another."""
    url: str = getattr(request, "param", "redis")
    return store.url if url == "redis" else url


on_each_broker = pytest.mark.parametrize(
    "broker", ["redis", *rabbitmq_urls()], indirect=True, ids=lambda url: url.split(":")[0]
)


@pytest.fixture
def workers(broker: str, store: Server, children: Children, tmp_path: Path) -> Iterator[Workers]:
    with_workers = Workers(
        children, tmp_path, broker, leader_url=store.url, result_backend=f"{store.url[:-1]}1"
    )
    yield with_workers
    children.close()
    with_workers.close()


def new_id() -> str:
    return str(uuid.uuid4())


def accepted(store: Server, *occurrences: str) -> list[str]:
    """Return the keys of the acceptance records of some occurrences, whatever their election."""
    found = store.client().scan_iter("*:accepted:*", count=1000)
    return sorted(key for key in found if key.rpartition(":")[2] in occurrences)


def dropped(worker: Child) -> list[str]:
    return [line for line in worker.lines if DROPPED in line]


@contextlib.contextmanager
def questions(store: Server) -> Iterator[list[str]]:
    """Note each command that a client sends about acceptance, but for trials of a connection."""
    seen: list[str] = []
    with store.client(socket_timeout=None).monitor() as monitor:

        def note() -> None:
            for command in monitor.listen():
                if command["command"] == "ECHO questions-end":
                    return
                text = command["command"]
                asks = command["client_type"] != "lua" and ":accepted:" in text
                if asks and ":accepted:trial" not in text:
                    seen.append(text)

        thread = threading.Thread(target=note, daemon=True)
        thread.start()
        yield seen
        store.client().echo("questions-end")
        thread.join(10)
        assert not thread.is_alive()


SOON_REDELIVERED = {
    # On Redis it takes that long until another worker gets what the dead one had taken.
    "broker_transport_options": {
        "visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1,
    },
    "leader_dedup_window": 60.0,
}  # fmt: skip


@on_each_broker
@pytest.mark.parametrize("pool", POOLS)
def test_a_second_publication_is_dropped_and_the_first_comes_through_as_often_as_it_comes(
    workers: Workers, pool: str
) -> None:
    worker = workers.start(pool=pool)
    run = new_id()
    for publication in ("first", "second", "first", "third"):
        workers.send(run, publication)
    workers.flush()
    assert [each.publication for each in workers.runs(occurrence=run)] == ["first", "first"]
    lines = dropped(worker)
    assert len(lines) == 2
    for line, publication in zip(lines, ("second", "third"), strict=True):
        assert f"{run} (task shop.work, election shop)" in line
        assert f"publication first was accepted before this one, {publication}" in line
        assert "WARNING" in line
    assert worker.stop() == 0


@on_each_broker
def test_a_dropped_message_is_acknowledged_reported_and_leaves_the_result_alone(
    workers: Workers, store: Server
) -> None:
    worker = workers.start("-E")
    run = new_id()
    events: list[dict[str, Any]] = []
    with workers.app.connection_for_read() as given:
        receiver = workers.app.events.Receiver(given, handlers={"*": events.append})
        with receiver.consumer_context() as (connection, _, _):
            with contextlib.suppress(TimeoutError):
                connection.drain_events(timeout=0.5)  # on Redis that is what subscribes
            workers.send(run, "first")
            workers.send(run, "second")
            while not any(event["type"] == "leader-duplicate-dropped" for event in events):
                connection.drain_events(timeout=10)
    event = next(event for event in events if event["type"] == "leader-duplicate-dropped")
    expected = {
        "uuid": run, "name": "shop.work", "election": "shop", "occurrence": run,
        "publication": "second", "accepted": "first",
    }  # fmt: skip
    assert event.items() >= expected.items()
    assert workers.app.AsyncResult(run).get(timeout=30) == "first"
    counters = workers.counters(worker)
    server = f"redis://{store.host}:{store.port}/0"
    assert counters == {
        "server": server, "answers": True, "passed": 1, "once": 0, "dropped": 1,
        "unchecked": 0, "entered_late": 0, "doubled": 0,
    }  # fmt: skip
    assert worker.stop() == 0
    assert workers.waiting() == 0
    if workers.broker == store.url:
        assert store.client().hlen("unacked") == 0


@on_each_broker
def test_dropped_messages_take_no_room_of_those_that_run(workers: Workers) -> None:
    worker = workers.start(settings={"worker_prefetch_multiplier": 1})
    run = new_id()
    for number in range(30):
        workers.send(run, f"publication-{number}")
    workers.flush()
    assert len(workers.runs()) == 2
    assert len(dropped(worker)) == 29


def test_without_install_both_run(workers: Workers) -> None:
    worker = workers.start(install=False)
    run = new_id()
    workers.send(run, "first")
    workers.send(run, "second")
    workers.flush()
    assert [each.publication for each in workers.runs(occurrence=run)] == ["first", "second"]
    assert dropped(worker) == []


@on_each_broker
def test_two_workers_run_each_of_many_occurrences_once(workers: Workers) -> None:
    each_worker = [workers.start("-c", "4"), workers.start("-c", "4", pool="threads")]
    occurrences = [new_id() for _ in range(150)]
    messages = [(run, publication) for run in occurrences for publication in "abc"]
    random.Random(1).shuffle(messages)  # so that publications of one run meet in both workers
    for run, publication in messages:
        workers.send(run, publication)
    workers.wait_for_runs(len(occurrences), timeout=30)
    count = len(messages) - len(occurrences)
    wait_until(lambda: sum(len(dropped(worker)) for worker in each_worker) >= count, 30)
    assert Counter(run.id for run in workers.runs()) == Counter(occurrences)
    assert all(dropped(worker) for worker in each_worker)


def test_a_periodic_message_costs_one_round_trip_and_others_none(
    workers: Workers, store: Server
) -> None:
    workers.start()
    with questions(store) as asked:
        for _ in range(20):
            workers.app.send_task("shop.work")
        workers.flush()
    assert asked == []
    runs = [new_id() for _ in range(20)]
    with questions(store) as asked:
        for run in runs:
            workers.send(run, "first")
        workers.flush()
    assert len(asked) == len(runs)
    assert all(command.startswith("EVALSHA") for command in asked)
    assert all(run in command for run, command in zip(runs, asked, strict=True))


@on_each_broker
@pytest.mark.parametrize("pool", POOLS)
def test_a_run_that_was_published_once_costs_nothing_and_leaves_no_record(
    workers: Workers, store: Server, pool: str
) -> None:
    worker = workers.start(pool=pool)
    once, other = new_id(), new_id()
    with questions(store) as asked:
        workers.send(once, "once-1")
        workers.send(other, "1once-")
        workers.send(once, "once-1")  # as a broker that redelivers it
        workers.flush()
    assert len(asked) == 1
    assert other in asked[0]
    assert [each.publication for each in workers.runs(occurrence=once)] == ["once-1", "once-1"]
    keys = LedgerKeys("shop")
    assert accepted(store, once, other) == [keys.accepted(other)]
    # Whatever else is published of a run has a nonce, and is the first of those that ask.
    workers.send(once, "after it")
    workers.flush()
    assert store.client().get(keys.accepted(once)) == "after it"
    assert dropped(worker) == []
    counters = workers.counters(worker)
    assert (counters["once"], counters["passed"], counters["dropped"]) == (2, 2, 0)


@on_each_broker
def test_a_redelivery_of_what_was_published_once_runs_and_leaves_no_record(
    workers: Workers, store: Server
) -> None:
    first = workers.start(settings=SOON_REDELIVERED)
    run = new_id()
    workers.send(run, "once-1", "shop.slow", 30)
    workers.wait_for_runs(1, "shop.slow")
    first.close()  # SIGKILL to it and its pool
    workers.start(settings=SOON_REDELIVERED)
    runs = workers.wait_for_runs(2, "shop.slow", 25)
    assert [each.publication for each in runs] == ["once-1", "once-1"]
    assert runs[0].pid != runs[1].pid
    assert accepted(store, run) == []


def test_the_key_is_the_message_s_own(workers: Workers, store: Server) -> None:
    workers.start(settings={"leader_key": "another"})
    run = new_id()
    workers.send(run, "first", key="this one")
    workers.flush()
    client = store.client()
    assert client.get(LedgerKeys("this one").accepted(run)) == "first"
    assert client.get(LedgerKeys("another").accepted(run)) is None


def test_records_live_for_the_window_and_for_30_days_after_a_second_attempt(
    workers: Workers, store: Server
) -> None:
    workers.start(settings={"leader_dedup_window": 9000.0})
    once, again = new_id(), new_id()
    client, keys = store.client(), LedgerKeys("shop")
    client.set(keys.again(again), "1", ex=60)
    workers.send(once, "first")
    workers.send(again, "first")
    workers.flush()
    assert 8_900_000 < client.pttl(keys.accepted(once)) <= 9_000_000
    month = 30 * 24 * 3_600_000
    assert month - 100_000 < client.pttl(keys.accepted(again)) <= month


def test_after_the_window_an_occurrence_is_not_known_any_more(workers: Workers) -> None:
    options = {"visibility_timeout": 0.5}
    workers.start(settings={"leader_dedup_window": 1.0, "broker_transport_options": options})
    run = new_id()
    workers.send(run, "first")
    workers.wait_for_runs(1)
    first_at = workers.runs()[0].at
    wait_until(lambda: time.monotonic() > first_at + 1.2, 30)
    workers.send(run, "second")
    workers.wait_for_runs(2)


@pytest.mark.parametrize("task", ["shop.work", "shop.own"])
def test_messages_of_protocol_1_and_strategies_of_a_task_s_own_are_guarded_too(
    workers: Workers, task: str
) -> None:
    workers.app.conf.task_protocol = 1
    worker = workers.start()
    run = new_id()
    workers.send(run, "first", task)
    workers.send(run, "second", task)
    workers.flush()
    assert len(workers.runs(occurrence=run)) == 1
    assert len(dropped(worker)) == 1


@on_each_broker
def test_a_retry_is_never_dropped(workers: Workers, store: Server) -> None:
    worker = workers.start()
    run = new_id()
    workers.send(run, "first", "shop.flaky", 2)
    workers.wait_for_runs(1)
    # As after the window, when another publication has been accepted in between.
    store.client().set(LedgerKeys("shop").accepted(run), "second")
    runs = workers.wait_for_runs(3)
    assert [(each.retries, each.publication) for each in runs] == [
        (0, "first"), (1, "first"), (2, "first"),
    ]  # fmt: skip
    assert dropped(worker) == []


def test_a_replaced_task_runs_what_replaces_it(workers: Workers) -> None:
    worker = workers.start()
    run = new_id()
    workers.send(run, "first", "shop.replaced")
    workers.wait_for_runs(2)
    workers.send(run, "second", "shop.replaced")
    workers.flush()
    mine = workers.runs(occurrence=run)
    assert [(each.task, each.publication) for each in mine] == [
        ("shop.replaced", "first"), ("shop.work", None),
    ]  # fmt: skip
    assert len(dropped(worker)) == 1


@on_each_broker
def test_eta_is_kept_and_a_second_publication_dropped_before_it(workers: Workers) -> None:
    worker = workers.start()
    run = new_id()
    sent_at = time.monotonic()
    workers.send(run, "first", countdown=1.5)
    workers.send(run, "second", countdown=1.5)
    workers.flush()
    assert len(dropped(worker)) == 1
    mine = workers.wait_for_runs(1, occurrence=run)
    assert [each.publication for each in mine] == ["first"]
    assert mine[0].at - sent_at >= 1.4


@on_each_broker
def test_chains_and_chords_go_on_once(workers: Workers) -> None:
    worker = workers.start()
    linked, fanned = new_id(), new_id()
    tail = workers.app.signature("shop.body", immutable=True)
    for publication in ("first", "second"):
        workers.send(linked, publication, link=tail)
        workers.send(fanned, publication, "shop.fan_out")
    workers.wait_for_runs(2, "shop.body")
    workers.flush()
    assert len(dropped(worker)) == 2
    counts = Counter(run.task for run in workers.runs())
    # Work: linked, two members of the chord, the mark.
    assert counts == {"shop.work": 4, "shop.fan_out": 1, "shop.body": 2}


def test_a_chain_whose_head_is_published_twice_runs_once(workers: Workers) -> None:
    worker = workers.start()
    run = new_id()
    tail = workers.app.signature("shop.body", immutable=True)
    for publication in ("first", "second"):
        workers.send(run, publication, chain=[tail])
    workers.wait_for_runs(2)
    workers.flush()
    assert Counter(each.task for each in workers.runs()) == {"shop.work": 2, "shop.body": 1}
    assert len(dropped(worker)) == 1


@on_each_broker
def test_a_redelivery_after_a_crash_runs_and_a_second_publication_does_not(
    workers: Workers, store: Server
) -> None:
    first = workers.start(settings=SOON_REDELIVERED)
    run = new_id()
    workers.send(run, "first", "shop.slow", 30)
    workers.wait_for_runs(1, "shop.slow")
    first.close()  # SIGKILL to it and its pool
    second = workers.start(settings=SOON_REDELIVERED)
    workers.send(run, "second", "shop.slow", 0)
    runs = workers.wait_for_runs(2, "shop.slow", 25)
    assert [each.publication for each in runs] == ["first", "first"]
    assert runs[0].pid != runs[1].pid
    second.wait_for_line(DROPPED, 30)


@on_each_broker
def test_a_worker_that_reconnects_is_still_guarded(
    workers: Workers,
) -> None:
    with workers.app.connection_for_read() as connection:
        host, port = connection.hostname, connection.port or connection.default_port
    with Proxy(port, host) as link:
        url = workers.broker.replace(f"{host}:{port}", f"{link.host}:{link.port}")
        worker = workers.start(settings={"broker_url": url})
        workers.send(run := new_id(), "first")
        workers.wait_for_runs(1)
        seen = len(worker.lines)
        link.cut()
        worker.wait_for_line("Connected to", 30, after=seen)
        workers.send(run, "second")
        # Not flush(): Celery 5.4 may not notice the end of the first task after a reconnect.
        worker.wait_for_line(DROPPED, 30, after=seen)
        # Whose acknowledgement may have been lost with the connection, so that it came once more.
        assert {run.publication for run in workers.runs()} == {"first"}
        assert worker.stop() == 0


@on_each_broker
def test_pool_restart_and_added_queues_are_guarded(workers: Workers) -> None:
    worker = workers.start(settings={"worker_pool_restarts": True})
    workers.send(run := new_id(), "first")
    workers.wait_for_runs(1)
    more = f"{workers.queue}-more"
    control = workers.app.control
    answer = control.pool_restart(destination=[worker.name], reply=True, timeout=10)
    assert answer == [{worker.name: {"ok": "reload started"}}]
    answer = control.add_consumer(
        more, exchange=more, exchange_type="direct", destination=[worker.name], reply=True,
        timeout=10,
    )  # fmt: skip
    assert len(answer) == 1, worker.output
    workers.send(run, "second")
    workers.send(run, "third", queue=more)
    worker.wait_for_line(lambda line: DROPPED in line and "one, third" in line, 30)
    worker.wait_for_line(lambda line: DROPPED in line and "one, second" in line, 30)
    workers.flush()
    assert len(workers.runs()) == 2
    with workers.app.connection_for_write() as connection:
        connection.default_channel.queue_delete(more)
        connection.default_channel.exchange_delete(more)
