"""What people reported of Celery's workers on Redis, its proxies and services, and of pools.

docs/explanation/reports.md says of each which report it is, what stock Celery does, and what we do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.reports.scene import STOCK, MakeScene, Scene, scenes
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]


@pytest.fixture
def redis_server() -> Iterator[Server]:
    """Broker and election."""
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture
def link(redis_server: Server) -> Iterator[Proxy]:
    """A way to it."""
    with Proxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
def make(
    children: Children, tmp_path: Path, valkey_server: Server, redis_server: Server
) -> Iterator[MakeScene]:
    # ``valkey_server`` keeps what ran; nothing is done to it.
    with scenes(children, tmp_path, valkey_server) as make_scene:

        def make(server: Server = redis_server, **settings: Any) -> Scene:
            return make_scene(server.url, server.url, **settings)

        yield make


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_worker_consumes_on_after_its_connections_were_cut_again_and_again(
    make: MakeScene, link: Proxy, pool: str, measured: Callable[[str], None]
) -> None:
    scene = make()
    url = link.url()
    scene.start("-P", pool, broker=url, election=url)
    scene.start("-P", pool, queue=STOCK, broker=url)
    scene.leader()
    for turn in range(6):
        # A message that is on its way to a worker then is lost, with stock Celery, too.
        link.cut()
        if turn % 2:  # twice in a row, and then once it works again
            scene.plain(f"cut-{turn}")
            scene.alone(f"cut-{turn}")
            scene.wait_ran("plain", f"cut-{turn}")
            scene.wait_ran("alone", f"cut-{turn}")
    scene.plain("after")
    scene.plain("after", queue=STOCK)
    ran = wait_until(
        lambda: sum(x == "after" for _, x, _, _ in scene.ran("plain")) == 2, 60, scene.standing
    )
    measured(f"cut 6 times, {pool}: stock consumes on: {ran}")


def test_remote_control_and_lead_outlive_the_end_of_idle_connections(
    make: MakeScene, redis_server: Server, measured: Callable[[str], None]
) -> None:
    scene = make()
    only = scene.start()
    stock = scene.start(queue=STOCK)
    scene.leader()
    wait_until(lambda: scene.answers(only) and scene.answers(stock), 30, "remote control")
    client = redis_server.client()
    for kind in ("pubsub", "normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        wait_until(lambda: scene.answers(only), 60, scene.standing)
    wait_until(lambda: scene.answers(stock), 60, scene.standing)
    measured("idle connections ended: stock answers remote control again")
    scene.leader()
    scene.alone("after")
    scene.wait_ran("alone", "after")


def test_a_leader_whose_connections_are_dropped_in_silence_is_followed_by_another(
    make: MakeScene, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make()
    url = link.url()
    scene.start(broker=url, election=url)
    scene.start(queue=STOCK, broker=url)
    first = scene.leader()
    second = scene.start()
    second.wait_for_line("leads (takes over", 60)
    link.black_hole()
    # Its broker's connection hangs as with stock Celery, which sets no time limit for it.
    assert scene.leader(other_than=first) is second
    scene.alone("after")
    scene.wait_ran("alone", "after")
    assert {who for who, _, _, _ in scene.ran("alone")} == {f"{second.name}@here"}
    first.wait_for_line("Demoted: no longer leader", 60)
    scene.plain("after", queue=STOCK)
    waits = not scene.runs_within("plain", "after", 10)
    measured(f"connections dropped in silence: stock waits for more than 10 s: {waits}")
    link.heal()
    link.cut()
    second.stop()
    assert scene.leader(other_than=second) is first
    scene.alone("again")
    scene.wait_ran("alone", "again")


@pytest.mark.parametrize("retry", [False, True], ids=["as by default", "channel error retry"])
def test_a_redis_that_becomes_a_replica_has_no_leader_until_it_is_a_master_again(
    make: MakeScene, redis_server: Server, retry: bool, measured: Callable[[str], None]
) -> None:
    scene = make(broker_channel_error_retry=retry)
    only = scene.start()
    stock = scene.start(queue=STOCK)
    scene.leader()
    with Server(installed_kinds()[0]) as other:
        redis_server.follow(other)
        only.wait_for_line("Demoted", 60)
        # As stock Celery's, whose loop ends with a refused write unless it is told to go on.
        wait_until(lambda: stock.running is only.running is retry, 30, scene.standing)
        measured(f"broker a replica, retry {retry}: both run on: {only.running}")
        redis_server.promote()
        if not retry:
            scene.start()
        scene.alone("after")
        scene.wait_ran("alone", "after")


def test_a_redis_that_knows_no_client_command_elects_and_works(
    make: MakeScene, measured: Callable[[str], None]
) -> None:
    with Server(installed_kinds()[0], config={"rename-command": 'CLIENT ""'}) as server:
        scene = make(server)
        scene.start()
        scene.start(queue=STOCK)
        scene.leader()
        scene.alone("there")
        scene.plain("there", queue=STOCK)
        scene.wait_ran("alone", "there")
        measured(f"no CLIENT: stock works: {scene.runs_within('plain', 'there', 30)}")


def test_a_pool_that_grows_and_shrinks_runs_all_calls_and_leads_on(
    make: MakeScene, measured: Callable[[str], None]
) -> None:
    scene = make()
    only = scene.start("--autoscale=6,1")
    stock = scene.start("--autoscale=6,1", queue=STOCK)
    scene.leader()
    burst = [f"burst-{n}" for n in range(30)]
    for call in burst:
        scene.alone(call, 0.5)
        scene.plain(call, 0.5, queue=STOCK)
    scene.wait_ran("alone", *burst)
    assert scene.most_at_once("alone", *burst) > 1
    only.wait_for_line("Scaling down", 90)
    scene.alone("after")
    scene.wait_ran("alone", "after")
    assert len(scene.ran("alone")) == len(burst) + 1
    stock.wait_for_line("Scaling down", 90)
    scene.plain("after", queue=STOCK)
    scene.wait_ran("plain", "after")
    measured(f"autoscale: stock runs {len(scene.ran('plain'))} times for 31 calls")


def test_each_new_pool_process_leads_while_the_link_is_cut(
    make: MakeScene, link: Proxy, measured: Callable[[str], None]
) -> None:
    scene = make(broker_transport_options={"visibility_timeout": 10})
    url = link.url()
    scene.start("--max-tasks-per-child", "1", broker=url, election=url)
    scene.start("--max-tasks-per-child", "1", queue=STOCK, broker=url)
    scene.leader()
    calls = [f"call-{n}" for n in range(20)]
    for n, call in enumerate(calls):
        scene.alone(call)
        scene.plain(call, queue=STOCK)
        if n % 7 == 3:
            scene.wait_ran("alone", *calls[: n + 1])
            link.cut()
            scene.plain(f"cut-{n}")
            scene.wait_ran("plain", f"cut-{n}")
    scene.wait_ran("alone", *calls, timeout=150)
    scene.runs_within("plain", calls[-1], 30)
    found = {x for _, x, _, _ in scene.ran("plain")} & set(calls)
    measured(f"one task a process, cuts: stock has run {len(found)} of {len(calls)} calls")
