"""Workers elect: one leads, consumes the leader queue, and hands over when it ends."""

from __future__ import annotations

import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

import celery_safe_leader
from tests.support.celery.workers import Worker, elected_at, leader_of, write_worker_app
from tests.support.network.proxy import Proxy
from tests.support.processes import Children
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

SIGNALS = """
from celery_safe_leader.signals import leader_demoted, leader_elected

@leader_elected.connect
def elected(**fields):
    print("SIGNAL elected {sender} {election} {fencing_token}".format_map(fields))

@leader_demoted.connect
def demoted(**fields):
    print("SIGNAL demoted {sender} {reason} {fencing_token}".format_map(fields))
"""


@dataclass
class ElectingWorkers:
    """Servers, and workers in one folder."""

    children: Children
    folder: Path
    server: Server
    broker: str
    queue: str
    workers: list[Worker] = field(default_factory=list)

    def start(self, *arguments: str, **env: str) -> Worker:
        options = ("-c", "1", "-Q", self.queue, *arguments)
        # A killed worker's name is taken for a while: RabbitMQ keeps its exclusive queue.
        name = f"w{len(self.workers)}-{self.queue}"
        worker = Worker(self.children, self.folder, *options, name=name, env=env)
        self.workers.append(worker)
        return worker


@pytest.fixture(params=["redis", *["amqp"] * bool(rabbitmq_urls())])
def stage(
    request: pytest.FixtureRequest, children: Children, tmp_path: Path, valkey_server: Server
) -> Iterator[ElectingWorkers]:
    broker = rabbitmq_urls()[0] if request.param == "amqp" else valkey_server.url
    queue = f"test-{uuid.uuid4().hex[:8]}"
    write_worker_app(
        tmp_path, broker, valkey_server.url, more=SIGNALS, leader_queue=f"{queue}.leader.shop"
    )
    yield ElectingWorkers(children, tmp_path, valkey_server, broker, queue)
    children.close()
    if request.param == "amqp":
        with Celery(broker=broker).connection_for_write() as connection:
            channel = connection.default_channel
            for name in (queue, f"{queue}.leader.shop"):
                channel.queue_delete(name)
                channel.exchange_delete(name)


@pytest.mark.timeout(120)
def test_one_worker_leads_and_hands_over_when_it_is_told_to_end(stage: ElectingWorkers) -> None:
    stage.start(PYTHONHASHSEED="1")
    stage.start(PYTHONHASHSEED="2")
    first = leader_of(stage.workers)
    second = next(worker for worker in stage.workers if worker is not first)
    second.wait_ready()
    assert not second.consumes
    second.child.wait_for_line("leads (takes over")
    first.child.signal(signal.SIGTERM)
    assert leader_of(stage.workers, other_than=first) is second
    assert first.child.wait() == 0
    demoted = first.child.wait_for_line("SIGNAL demoted w").text
    assert "shutdown" in demoted
    elected = first.child.wait_for_line("SIGNAL elected w").text
    assert elected.split()[-1] == demoted.split()[-1]
    assert "shop:worker" in elected
    assert "Traceback" not in first.child.output + second.child.output


@pytest.mark.timeout(120)
@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL], ids=lambda how: how.name)
def test_another_worker_takes_over(stage: ElectingWorkers, how: signal.Signals) -> None:
    for _ in range(2):
        stage.start()
    first = leader_of(stage.workers)
    second = next(worker for worker in stage.workers if worker is not first)
    second.child.wait_for_line("leads (takes over")
    told = time.monotonic()
    first.child.signal(how)
    leader_of(stage.workers, other_than=first)
    # Cold: it resigned, which one that is killed cannot.
    store: Any = stage.server.client()
    history = [entry for _, entry in store.xrange("{leader:shop}:worker:history")]
    assert history[-1]["event"] == "elected"
    resigned = [entry for entry in history if entry["event"] == "resigned"]
    assert len(resigned) == (1 if how is signal.SIGQUIT else 0)
    assert elected_at(second) > told


@pytest.mark.timeout(120)
def test_a_worker_that_takes_no_part_never_leads(stage: ElectingWorkers) -> None:
    aside = stage.start("--no-leader")
    aside.wait_ready()
    aside.child.wait_for_line("takes no part in the election: it never leads")
    time.sleep(2)
    assert not aside.leads
    assert not aside.consumes
    candidate = stage.start()
    assert leader_of(stage.workers) is candidate


@pytest.mark.timeout(120)
def test_a_demoted_worker_cancels_the_queue_and_leads_again(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    # The election's link breaks, the broker's does not.
    with Proxy(valkey_server.port) as link:
        write_worker_app(tmp_path, valkey_server.url, valkey_server.url, leader_url=link.url())
        worker = Worker(children, tmp_path, "-c", "1")
        leader_of([worker])
        link.black_hole()
        worker.child.wait_for_line("confirmed no renewal", 30)
        worker.child.wait_for_line("Canceling queue leader.shop", 30)
        link.heal()
        leader_of([worker])
        assert "Traceback" not in worker.child.output
        children.close()


@pytest.mark.timeout(120)
def test_consumption_outlives_a_lost_connection(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    # The broker's link breaks, the election's does not.
    with Proxy(valkey_server.port) as link:
        write_worker_app(tmp_path, link.url(), valkey_server.url)
        worker = Worker(children, tmp_path, "-c", "1")
        leader_of([worker])
        heard = len(worker.child.lines)
        link.cut()
        worker.child.wait_for_line("Started consuming from leader.shop", 30, after=heard)
        assert worker.leads
        children.close()


def test_a_worker_that_is_told_to_consume_the_leader_queue_is_refused() -> None:
    app = Celery("shop", broker="redis://localhost:1")
    celery_safe_leader.install(app)
    with pytest.raises(ImproperlyConfigured, match=r"'leader\.shop' is the leader queue .*-Q"):
        app.WorkController(queues="celery,leader.shop")


@pytest.mark.parametrize("queues", [None, "a,b"])
def test_the_leader_queue_is_not_among_those_that_a_worker_consumes_by_itself(
    queues: str | None,
) -> None:
    app = Celery("shop", broker="redis://localhost:1")
    celery_safe_leader.install(app)
    celery_safe_leader.install(app)
    worker = app.WorkController(queues=queues)
    assert set(app.amqp.queues.consume_from) == set((queues or "celery").split(","))
    assert "leader.shop" in app.amqp.queues
    worker.consumer.safe_leader.shutdown(worker.consumer)
