"""First publication wins while the election's Redis is away, hangs or refuses: real workers.

The broker is a server of its own, so that only the question of acceptance is in trouble.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.celery.periodic_workers import Workers
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.processes.child import Child
from tests.support.servers import Server

PASSWORD = "Zq9Xv7"
TROUBLE = "Until Redis answers again, periodic runs are executed without a check for"
WELL = "answers again: periodic runs are checked again"
DROPPED = "Dropped a second publication of periodic run"


@pytest.fixture
def store(start_server: Callable[..., Server]) -> Server:
    """The election's server, which is not the broker."""
    return start_server(password=PASSWORD)


@pytest.fixture
def link(store: Server, start_proxy: Callable[[Server], Proxy]) -> Proxy:
    return start_proxy(store)


@pytest.fixture
def workers(
    start_server: Callable[..., Server], link: Proxy, children: Children, tmp_path: Path
) -> Iterator[Workers]:
    with_workers = Workers(children, tmp_path, start_server().url, leader_url=link.url(PASSWORD))
    yield with_workers
    children.close()
    with_workers.close()


def new_id() -> str:
    return str(uuid.uuid4())


def lines(worker: Child, text: str) -> list[str]:
    return [line for line in worker.lines if text in line]


def received(worker: Child) -> list[str]:
    return [line for line in worker.lines if line.endswith("received")]


def hang_by_the_network(store: Server, link: Proxy) -> Callable[[], None]:
    link.black_hole()
    return link.heal


def hang_by_the_server(store: Server, link: Proxy) -> Callable[[], None]:
    store.process.pause()
    return store.process.resume


@pytest.mark.parametrize("pool", ["solo", "threads", "gevent"])
@pytest.mark.parametrize("hang", [hang_by_the_network, hang_by_the_server])
def test_a_redis_that_hangs_costs_100_ms_once_and_is_asked_again_when_it_answers(
    workers: Workers,
    store: Server,
    link: Proxy,
    hang: Callable[[Server, Proxy], Callable[[], None]],
    pool: str,
) -> None:
    worker = workers.start(pool=pool)
    workers.send(new_id(), "first")
    workers.wait_for_runs(1)
    heal = hang(store, link)
    workers.app.send_task("shop.work")
    runs = [new_id() for _ in range(40)]
    for run in runs:
        workers.send(run, "first")
    workers.wait_for_runs(42)
    # The runs are noted in a file; what the log says of them may come a little later.
    wait_until(lambda: len(received(worker)) == 42, 30, lambda: worker.output)
    # All of them ran while it hung, and only the first one waited: then it was known to be in
    # trouble, and no other asked. That one was received second of these 41.
    assert len(lines(worker, TROUBLE)) == 1
    texts = worker.lines
    trouble = next(number for number, text in enumerate(texts) if TROUBLE in text)
    assert sum(text.endswith("received") for text in texts[:trouble]) <= 3
    heal()
    worker.wait_for_line(WELL, 30)
    # What ran unchecked was entered, so a second publication of it is known as such.
    workers.send(runs[0], "second")
    workers.send(runs[-1], "second")
    workers.flush()
    assert len(lines(worker, DROPPED)) == 2
    counters = workers.counters(worker)
    assert {name: counters[name] for name in ("unchecked", "entered_late", "doubled")} == {
        "unchecked": 40, "entered_late": 40, "doubled": 0,
    }  # fmt: skip
    assert PASSWORD not in worker.output


def test_a_redis_that_is_away_from_the_start_holds_nothing_up(
    workers: Workers, store: Server
) -> None:
    store.stop()
    worker = workers.start()
    run = new_id()
    workers.send(run, "first")
    workers.send(run, "second")
    workers.wait_for_runs(2)
    assert len(lines(worker, TROUBLE)) == 1
    store.start()
    worker.wait_for_line(WELL, 30)
    worker.wait_for_line(f"Periodic run {run} of shop was executed twice", 30)

    def dropped() -> list[str]:
        # On a busy machine a reply may come too late, and the message runs unchecked.
        workers.send(run, new_id())
        workers.flush()
        return lines(worker, DROPPED)

    wait_until(dropped, 30, lambda: worker.output)
    assert len(lines(worker, TROUBLE)) == 1
    assert workers.counters(worker)["doubled"] == 1


@pytest.mark.parametrize("cut", ["killed", "restarted", "link"])
def test_the_first_message_after_a_connection_was_cut_is_checked(
    workers: Workers, store: Server, link: Proxy, cut: str
) -> None:
    worker = workers.start()
    workers.send(run := new_id(), "first")
    workers.wait_for_runs(1)
    if cut == "killed":
        store.client().client_kill_filter(_type="normal", skipme=True)
    elif cut == "restarted":
        store.client().save()
        store.stop()
        store.start()
    else:
        link.cut()
    workers.send(run, "second")
    workers.flush()
    assert len(lines(worker, DROPPED)) == 1
    assert lines(worker, TROUBLE) == []


def test_a_replica_that_refuses_writes_is_named_and_asked_until_it_does_not(
    workers: Workers, store: Server
) -> None:
    worker = workers.start()
    client = store.client()
    client.config_set("replica-read-only", "yes")
    client.replicaof("127.0.0.1", "1")  # nobody is there
    workers.send(run := new_id(), "first")
    line = worker.wait_for_line(TROUBLE, 30)
    assert "this Redis is a read-only replica" in line.text
    workers.wait_for_runs(1)
    client.replicaof("NO", "ONE")
    worker.wait_for_line(WELL, 30)
    workers.send(run, "second")
    workers.flush()
    assert len(lines(worker, DROPPED)) == 1


def test_at_the_start_it_is_said_which_server_is_asked_and_why(
    workers: Workers, link: Proxy
) -> None:
    worker = workers.start(settings={"leader_dedup_window": 9000})
    (line,) = lines(worker, "The first publication of each periodic run is executed")
    assert f"redis://127.0.0.1:{link.port}/0 (leader_url) remembers a run for 9000 s" in line
    assert PASSWORD not in worker.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"leader_dedup_window": 5}, "leader_dedup_window is 5 s; it must be at least 7200 s"),
        ({"leader_urls": "redis://h"}, "leader_urls is not a setting of celery-safe-leader"),
        ({"leader_url": f"redis://:{PASSWORD}@h:x/"}, "leader_url is "),
        ({"leader_options": {"nonsense": PASSWORD}}, "leader_options is given with 'nonsense'"),
    ],
)
def test_wrong_settings_end_a_worker_at_its_start_with_the_reason(
    workers: Workers, settings: dict[str, object], said: str
) -> None:
    worker = workers.start(ready=False, settings=settings)
    assert worker.wait(30) != 0
    wait_until(lambda: said in worker.output, 30, worker.output)
    assert "ready." not in worker.output
    assert PASSWORD not in worker.output
