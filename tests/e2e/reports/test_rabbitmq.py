"""What people reported of Celery's workers on RabbitMQ, with leader-only calls.

docs/explanation/reports.md says of each which report it is, what stock Celery does, and what we do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.reports.scene import LEADER_QUEUE, STOCK, MakeScene, scenes
from tests.support.network.ports import free_port
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.own_rabbitmq import OwnRabbitMQ

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def node() -> Iterator[OwnRabbitMQ]:
    """A RabbitMQ node for all of these tests."""
    with OwnRabbitMQ() as started:
        yield started


@pytest.fixture
def rabbitmq(node: OwnRabbitMQ) -> OwnRabbitMQ:
    """The node, without queues."""
    node.control("stop_app")
    node.control("reset")
    node.control("start_app")
    return node


@pytest.fixture
def link(rabbitmq: OwnRabbitMQ) -> Iterator[Proxy]:
    """The workers' way to the broker."""
    with Proxy(rabbitmq.port) as proxy:
        yield proxy


@pytest.fixture
def make(
    children: Children, tmp_path: Path, valkey_server: Server, rabbitmq: OwnRabbitMQ
) -> Iterator[MakeScene]:
    with scenes(children, tmp_path, valkey_server) as make_scene:
        yield partial(make_scene, rabbitmq.url, valkey_server.url)


def by_way_of(link: Proxy) -> str:
    return f"amqp://guest:guest@{link.host}:{link.port}//"


QUORUM = {"task_default_queue_type": "quorum", "task_create_missing_queue_type": "quorum"}


def test_quorum_queues_run_as_many_at_once_after_a_reconnect_in_the_middle(
    make: MakeScene, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make(**QUORUM)
    ours = scene.start("-c", "4", broker=by_way_of(link))
    stock = scene.start("-c", "4", queue=STOCK, broker=by_way_of(link))
    scene.leader()
    for n in range(4):
        scene.alone(f"before-{n}", 3)
        scene.plain(f"before-{n}", 3, queue=STOCK)
    scene.cut_until_reconnected(link, ours, stock)
    scene.wait_ran("alone", *(f"before-{n}" for n in range(4)))
    scene.leader()
    after = [f"after-{n}" for n in range(8)]
    for call in after:
        scene.alone(call, 1)
        scene.plain(call, 1, queue=STOCK)
    scene.wait_ran("alone", *after)
    scene.wait_ran("plain", *after)
    measured(
        f"quorum, after a reconnect: {scene.most_at_once('plain', *after)} of 4 at once, stock"
    )
    assert scene.most_at_once("alone", *after) == 4


def test_a_queue_that_was_cancelled_and_added_is_consumed_after_a_reconnect(
    make: MakeScene, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make()
    ours = scene.start(broker=by_way_of(link))
    stock = scene.start(queue=STOCK, broker=by_way_of(link))
    scene.leader()
    wait_until(lambda: scene.answers(ours) and scene.answers(stock), 30, "remote control")
    control = scene.module.app.control
    for queue, worker in ((LEADER_QUEUE, ours), (STOCK, stock)):
        name = [f"{worker.name}@here"]
        control.cancel_consumer(queue, destination=name, reply=True, timeout=5)
        control.add_consumer(queue, destination=name, reply=True, timeout=5)
    ours.wait_for_line("taking part in the election", 30)
    scene.leader()
    scene.cut_until_reconnected(link, ours, stock)
    scene.alone("after")
    scene.plain("after", queue=STOCK)
    scene.wait_ran("alone", "after")
    consumed = scene.runs_within("plain", "after", 10)
    measured(f"cancelled, added, reconnected: stock consumes the queue: {consumed}")


def test_a_worker_whose_channel_the_broker_closes_leaves_the_lead_at_once(
    make: MakeScene, measured: Callable[[str], None]
) -> None:
    scene = make()
    scene.start()
    first = scene.leader()
    scene.start()
    stock = scene.start(queue=STOCK)
    wait_until(lambda: scene.answers(first) and scene.answers(stock), 30, "remote control")
    for worker in (first, stock):
        scene.module.app.control.broadcast("break_channel", destination=[f"{worker.name}@here"])
    # As with stock Celery, whose setting broker_channel_error_retry is off.
    measured(f"unknown delivery tag: stock ends with {stock.wait(60)}, ours with {first.wait(60)}")
    assert scene.leader(other_than=first) is not first
    scene.alone("after")
    scene.wait_ran("alone", "after")
    assert "Demoted" in first.output  # it resigned: nobody had to wait for a lease


def test_with_channel_error_retry_it_leads_on_over_the_next_channel(make: MakeScene) -> None:
    scene = make(broker_channel_error_retry=True)
    only = scene.start()
    scene.leader()
    wait_until(lambda: scene.answers(only), 30, "remote control")
    before = len(only.lines)
    scene.module.app.control.broadcast("break_channel", destination=[f"{only.name}@here"])
    only.wait_for_line("Connected to ", 60, after=before)
    scene.alone("after")
    scene.wait_ran("alone", "after")


def test_a_task_beyond_the_consumer_timeout_runs_again_on_the_next_leader(
    make: MakeScene, rabbitmq: OwnRabbitMQ, measured: Callable[[str], None]
) -> None:
    # Each channel keeps what was set when it was opened.
    set_env = "application:set_env(rabbit, {}, {})."
    rabbitmq.control("eval", set_env.format("channel_tick_interval", 500))
    rabbitmq.control("eval", set_env.format("consumer_timeout", 2000))
    scene = make()
    first = scene.start("-c", "1")
    stock = scene.start("-c", "1", queue=STOCK)
    scene.leader()
    rabbitmq.control("eval", set_env.format("consumer_timeout", 1_800_000))
    second = scene.start("-c", "1")
    scene.alone("long", 5)
    scene.plain("long", 5, queue=STOCK)
    measured(f"consumer_timeout: stock ends with {stock.wait(60)}, ours with {first.wait(60)}")
    assert scene.leader(other_than=first) is second
    scene.alone("after")
    scene.wait_ran("alone", "after")
    # The broker had not heard of its end, and gave it to the next leader: as with any task.
    assert [x for who, x, _, _ in scene.ran("alone")][-2:] == ["long", "after"]


def test_a_call_in_a_quorum_queue_comes_back_after_each_of_many_retries(
    make: MakeScene, measured: Callable[[str], None]
) -> None:
    topic = {
        "task_create_missing_queue_exchange_type": "topic",
        "task_default_exchange_type": "topic",
    }
    scene = make(**QUORUM, **topic)
    scene.start()
    scene.start(queue=STOCK)
    scene.leader()
    scene.alone("retried", 0, 4)
    scene.plain("retried", 0, 4, queue=STOCK)
    scene.alone("delayed", countdown=3)
    scene.wait_ran("alone", "retried", "delayed", timeout=90)
    assert sum(x == "retried" for _, x, _, _ in scene.ran("alone")) == 1
    arrived = scene.runs_within("plain", "retried", 30)
    measured(f"quorum, topic exchange: a call arrives after four retries, stock: {arrived}")


def test_calls_for_later_in_a_quorum_queue_on_a_direct_exchange_take_their_places(
    make: MakeScene, measured: Callable[[str], None]
) -> None:
    # As with stock: the broker cannot raise the number of messages that a worker may have.
    scene = make(**QUORUM, worker_prefetch_multiplier=1)
    scene.start("-c", "1")
    scene.start("-c", "1", queue=STOCK)
    scene.leader()
    scene.alone("later", countdown=6)
    scene.plain("later", queue=STOCK, countdown=6)
    scene.alone("now")
    scene.plain("now", queue=STOCK)
    scene.wait_ran("alone", "later", "now")
    scene.wait_ran("plain", "later", "now")
    order = {name: [x for _, x, _, _ in scene.ran(name)] for name in ("alone", "plain")}
    measured(f"countdown, quorum, direct exchange: stock runs {order['plain']}")
    assert order["alone"] == order["plain"]


def test_a_broker_that_hangs_is_left_and_found_again(
    make: MakeScene, rabbitmq: OwnRabbitMQ, measured: Callable[[str], None]
) -> None:
    scene = make(broker_heartbeat=2, broker_connection_timeout=2)
    only = scene.start()
    stock = scene.start(queue=STOCK)
    scene.leader()
    wait_until(lambda: scene.answers(only) and scene.answers(stock), 30, "remote control")
    rabbitmq.pause()
    try:
        only.wait_for_line("Connection to broker lost", 60)
    finally:
        rabbitmq.resume()
    scene.leader()
    scene.alone("after")
    scene.plain("after", queue=STOCK)
    scene.wait_ran("alone", "after")
    measured(f"the broker hung: stock consumes on: {scene.runs_within('plain', 'after', 30)}")


def test_the_leader_queue_is_consumed_at_the_broker_to_which_celery_moved(
    make: MakeScene, rabbitmq: OwnRabbitMQ, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make()
    brokers = f"{by_way_of(link)};amqp://guest:guest@127.0.0.1:{free_port()}//;{rabbitmq.url}"
    only = scene.start(broker=brokers)
    scene.start(queue=STOCK, broker=brokers)
    scene.leader()
    before = len(only.lines)
    link.refuse()
    link.cut()
    only.wait_for_line(f":{rabbitmq.port}//", 60, after=before)
    scene.alone("after")
    scene.plain("after", queue=STOCK)
    scene.wait_ran("alone", "after")
    measured(f"a list of brokers: stock moves on: {scene.runs_within('plain', 'after', 30)}")


RIGHTS = [
    # To configure, write and read; of those, what is missing.
    ("^(?!leader[.]).*", ".*", ".*"),
    (".*", ".*", "^(?!leader[.]).*"),
]


@pytest.mark.parametrize("rights", RIGHTS, ids=["configure", "read"])
def test_a_user_without_rights_on_the_leader_queue_leaves_the_lead_to_one_that_has_them(
    make: MakeScene, rabbitmq: OwnRabbitMQ, rights: tuple[str, str, str]
) -> None:
    rabbitmq.control("add_user", "shop", "secret-word")
    rabbitmq.control("set_permissions", "shop", *rights)
    scene = make()
    url = f"amqp://shop:secret-word@{rabbitmq.host}:{rabbitmq.port}//"
    without = scene.start(broker=url)
    without.wait_for_line("Cannot consume leader queue leader.shop", 60)
    line = next(line for line in without.lines if "Cannot consume leader queue" in line)
    assert "ACCESS_REFUSED" in line
    assert "Grant the broker's user the rights to configure, write and read it." in line
    scene.plain("ordinary")
    scene.wait_ran("plain", "ordinary")  # not deaf
    with_rights = scene.start()
    assert scene.leader(other_than=without) is with_rights
    scene.alone("after")
    scene.wait_ran("alone", "after")
    assert {who for who, _, _, _ in scene.ran("alone")} == {f"{with_rights.name}@here"}
    assert "secret-word" not in without.output
    rabbitmq.control("delete_user", "shop")


def test_a_leader_queue_that_somebody_deletes_is_declared_and_consumed_again(
    make: MakeScene, rabbitmq: OwnRabbitMQ, measured: Callable[[str], None]
) -> None:
    scene = make()
    only = scene.start()
    stock = scene.start(queue=STOCK)
    scene.leader()
    for queue in (LEADER_QUEUE, STOCK):
        rabbitmq.control("delete_queue", queue)
    for worker in (only, stock):
        worker.wait_for_line("Connection to broker lost", 60)
    scene.alone("after")
    scene.plain("after", queue=STOCK)
    scene.wait_ran("alone", "after")
    measured(f"queue deleted: stock consumes it again: {scene.runs_within('plain', 'after', 20)}")


def test_calls_that_are_cancelled_with_the_connection_run_again_and_the_worker_leads_on(
    make: MakeScene, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make(worker_cancel_long_running_tasks_on_connection_loss=True)
    only = scene.start(broker=by_way_of(link))
    stock = scene.start(queue=STOCK, broker=by_way_of(link))
    scene.leader()
    scene.alone("long", 4)
    scene.plain("long", 4, queue=STOCK)
    only.wait_for_line("Task alone[", 30)
    stock.wait_for_line("Task plain[", 30)
    scene.cut_until_reconnected(link, only, stock)
    scene.wait_ran("alone", "long")
    scene.alone("after")
    scene.wait_ran("alone", "after")
    assert only.running
    ran = scene.runs_within("plain", "long", 30)
    measured(f"cancelled with the connection: stock lives {stock.running}, runs it again {ran}")
