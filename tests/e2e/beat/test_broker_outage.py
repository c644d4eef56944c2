"""A hundred runs come due while beats have no broker.

The workers begin once it is over: so the queue keeps what came, and in which order.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from tests.support.celery.chaos import MICROSECONDS, Execution, Fleet, problems
from tests.support.network.proxy import Proxy
from tests.support.processes import wait_until
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls

TTL, WAIT = 0.6, 0.1
PHASE = 0.03
STEPS = dict.fromkeys((f"entry-{index * 37 % 400:03}" for index in range(400)), 400 * PHASE)
"""Thirty-three runs a second, each of another entry; the names are not in the order of runs."""
DUE = 100
"""Runs that come due meanwhile."""
TOPIC = """
from kombu import Exchange, Queue
app.conf.task_queues = [Queue({key!r}, Exchange({key!r} + "-topic", type="topic"), "shop.#")]
app.conf.task_routes = {{"shop.*": {{"queue": {key!r}, "routing_key": "shop.a"}}}}
"""


@dataclass
class Outage:
    """Beats with a link to their broker, and no worker yet."""

    fleet: Fleet
    broker: Server | None
    """``None`` for RabbitMQ."""
    link: Proxy
    began: int = 0

    def begin(self) -> None:
        """Note that runs from now on are those that come due meanwhile."""
        self.began = time.time_ns() // 1000

    def wait_due(self) -> None:
        """Wait until enough runs have come due."""
        until = self.began / MICROSECONDS + DUE * PHASE
        time.sleep(max(0.0, until - time.time()))

    @property
    def server(self) -> Server:
        """The broker, if it is the test's own."""
        assert self.broker is not None
        return self.broker

    def finish(self, *, lost_before: bool = False, told: bool = False) -> list[Execution]:
        """Let them be executed, check that each is once, and return them as they came.

        Args:
            lost_before: Whether messages from before the outage are lost with the broker's data.
            told: Whether Celery's own code is told of what is not published: it logs a traceback.
        """
        healed = time.time_ns() // 1000
        self.fleet.start_worker("-P", "solo")
        self.fleet.wait_served(healed)
        until = time.time_ns() // 1000
        self.fleet.wait_served(until)  # beats have caught up
        self.fleet.stop_beats()
        self.fleet.wait_idle(1.0)
        executions, grids = self.fleet.executions(), self.fleet.grids
        if lost_before:
            executions = [run for run in executions if run.first >= self.began]
            grids = {name: grid.since(self.began) for name, grid in grids.items()}
        assert problems(executions, grids, until) == []
        complaints = self.fleet.complaints()
        assert [line for line in complaints if not (told and "Traceback" in line)] == []
        assert sum(self.began <= run.first <= healed for run in executions) >= DUE - 1
        return executions


def disorder(executions: list[Execution]) -> list[tuple[int, int]]:
    """List the neighbours of which the later one was due before."""
    pairs = itertools.pairwise(run.first for run in executions)
    return [(a, b) for a, b in pairs if b < a]


@pytest.fixture
def begin(tmp_path: Path, key: str) -> Iterator[Callable[..., Outage]]:
    with contextlib.ExitStack() as cleanup:

        def start(kind: str, exchange: str = "direct", *, beats: int = 1, more: str = "") -> Outage:
            election = cleanup.enter_context(Server(installed_kinds()[0]))
            broker: Server | None = None
            if kind == "redis":
                broker = cleanup.enter_context(
                    Server(installed_kinds()[0], config={"appendonly": "yes"})
                )
                url, link = broker.url, Proxy(broker.port)
                linked = link.url()
            else:
                url, parts = RABBITMQ_URL, urlsplit(RABBITMQ_URL)
                link = Proxy(parts.port or 5672, parts.hostname or "127.0.0.1")
                login = parts.netloc.rpartition("@")[0]
                linked = parts._replace(netloc=f"{login}@{link.host}:{link.port}").geturl()
                cleanup.callback(delete, url, key)
            cleanup.callback(link.close)
            fleet = Fleet(
                tmp_path,
                url,
                election.url,
                STEPS,
                beat_broker=linked,
                phase=PHASE,
                more=more + (TOPIC.format(key=key) if exchange == "topic" else ""),
                task_default_queue=key,
                worker_enable_remote_control=False,
                leader_ttl=TTL,
                leader_wait=WAIT,
            )
            cleanup.enter_context(fleet)
            for _ in range(beats):
                fleet.start_beat()
            fleet.leader()
            wait_until(lambda: link.connections > 0, 30, "a connection to the broker")
            return Outage(fleet, broker, link)

        yield start


def delete(url: str, key: str) -> None:
    """Remove what a test left in a broker that others use."""
    with Connection(url) as connection:
        channel = connection.default_channel
        Queue(key, channel=channel).delete()
        for name in (key, f"{key}-topic"):
            Exchange(name, channel=channel).delete()


BROKERS = ["redis", *(["rabbitmq"] if rabbitmq_urls() else [])]


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", BROKERS)
def test_the_broker_refuses_connections(kind: str, begin: Callable[..., Outage]) -> None:
    outage = begin(kind)
    outage.begin()
    outage.link.refuse()
    outage.link.cut()
    outage.wait_due()
    outage.link.accept()
    assert disorder(outage.finish()) == []


@pytest.mark.timeout(90)
def test_redis_is_killed_and_comes_back_with_its_data(begin: Callable[..., Outage]) -> None:
    outage = begin("redis")
    outage.begin()
    outage.server.kill()
    outage.wait_due()
    outage.server.start()
    assert disorder(outage.finish()) == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("exchange", ["direct", "topic"])
def test_redis_loses_the_queue_and_its_bindings(
    exchange: str, begin: Callable[..., Outage]
) -> None:
    outage = begin("redis", exchange)
    outage.server.client().flushall()
    outage.begin()
    outage.wait_due()
    assert disorder(outage.finish(lost_before=True)) == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", BROKERS)
def test_a_black_hole_and_a_leader_killed_in_it(kind: str, begin: Callable[..., Outage]) -> None:
    outage = begin(kind, beats=2)
    outage.begin()
    outage.link.black_hole()
    leader = outage.fleet.leader()
    leader.kill()
    outage.fleet.leader(other_than=leader)
    outage.wait_due()
    outage.link.heal()
    assert disorder(outage.finish()) == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", BROKERS)
def test_connections_cut_between_a_write_and_its_reply(
    kind: str, begin: Callable[..., Outage]
) -> None:
    outage = begin(kind, "topic")
    (beat,) = outage.fleet.beats
    outage.begin()
    cuts = 0
    while cuts < 3 or time.time_ns() // 1000 < outage.began + DUE * PHASE * MICROSECONDS:
        heard = len(beat.child.lines)
        assert outage.link.cut_after_request(b"shop.record").wait(30)
        cuts += 1
        # No run fails twice: it would have to wait for those that are newly due.
        beat.child.wait_for_line("The broker accepts messages again", after=heard)
    assert disorder(outage.finish()) == []
    assert outage.fleet.dropped >= cuts  # what was cut off arrived, and was published again


LISTENING = """
from celery.signals import after_task_publish

@after_task_publish.connect
def listen(**_):
    pass
"""
"""So that runs go Celery's own way."""


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("fault", ["refused", "black hole", "cut"])
@pytest.mark.parametrize("kind", BROKERS)
def test_runs_that_celerys_own_code_sends_outlast_the_broker_s_troubles(
    kind: str, fault: str, begin: Callable[..., Outage]
) -> None:
    outage = begin(kind, beats=2 if fault == "black hole" else 1, more=LISTENING)
    leader = outage.fleet.leader()
    outage.begin()
    cuts = 0
    if fault == "refused":
        outage.link.refuse()
        outage.link.cut()
    elif fault == "black hole":
        outage.link.black_hole()
        leader.kill()
        outage.fleet.leader(other_than=leader)
    else:
        while cuts < 3:
            heard = len(leader.child.lines)
            assert outage.link.cut_after_request(b"shop.record").wait(30)
            cuts += 1
            leader.child.wait_for_line("The broker accepts messages again", after=heard)
    outage.wait_due()
    if fault == "black hole":
        outage.link.heal()
    outage.link.accept()
    executions = outage.finish(told=True)
    assert not any(run.publication.startswith("once-") for run in executions)
    assert outage.fleet.dropped >= cuts
