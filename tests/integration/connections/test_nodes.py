"""Clients that find their server: by real Sentinels, in a real cluster, and on a demoted master."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import redis
import redis.asyncio.sentinel
import redis.sentinel

from celery_safe_leader._store.connection.client import describe, make_async_client, make_client
from celery_safe_leader._store.connection.discovery import Locator
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, installed_kinds
from tests.support.servers.cluster import Cluster
from tests.support.servers.sentinels import SentinelGroup

LIMITS: dict[str, Any] = {"connect_timeout": 10.0, "read_timeout": 10.0}
BRIEF = 5.0
"""Seconds for connecting, where it matters."""
PASSWORD, OTHER = "Zq9-servers", "Zq9-sentinels"
KEY = "{leader:shop}:lease"
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])

Step = Callable[[], object]
"""What happens between two commands."""


def commands(
    url: Any,
    options: dict[str, Any],
    *steps: tuple[str, ...] | Step,
    asynchronous: bool,
    **limits: Any,
) -> list[Any]:
    """Run commands, and what happens between them, on one client; errors are results, too."""
    arguments = {**LIMITS, "key": KEY, **limits}
    if not asynchronous:
        client: Any = make_client(url, options, **arguments)
        try:
            return [_result(client.execute_command, step) for step in steps]
        finally:
            client.close()

    async def run() -> list[Any]:
        async_client: Any = make_async_client(url, options, **arguments)
        try:
            return [await _async_result(async_client.execute_command, step) for step in steps]
        finally:
            await async_client.aclose()

    return asyncio.run(run())


def _result(execute: Callable[..., Any], step: tuple[str, ...] | Step) -> Any:
    try:
        return execute(*step) if isinstance(step, tuple) else step()
    except (redis.RedisError, OSError) as error:
        return error


async def _async_result(
    execute: Callable[..., Awaitable[Any]], step: tuple[str, ...] | Step
) -> Any:
    try:
        return await execute(*step) if isinstance(step, tuple) else step()
    except (redis.RedisError, OSError) as error:
        return error


@pytest.fixture(scope="module", params=installed_kinds()[:1])
def group(request: pytest.FixtureRequest) -> Iterator[SentinelGroup]:
    with SentinelGroup(request.param, password=PASSWORD, sentinel_password=OTHER) as group:
        yield group


@both
def test_the_master_is_found_with_two_passwords(group: SentinelGroup, asynchronous: bool) -> None:
    found = commands(group.url, group.options, ("ROLE",), asynchronous=asynchronous)
    assert found[0][0] == b"master"


@both
def test_spellings_of_redbeat_find_it_too(group: SentinelGroup, asynchronous: bool) -> None:
    options = {
        "sentinels": [("127.0.0.1", sentinel.port) for sentinel in group.sentinels],
        "service_name": "mymaster",
        "password": PASSWORD,
        "sentinel_kwargs": {"password": OTHER},
    }
    url = "redis-sentinel://nowhere.invalid:1/0"
    assert commands(url, options, ("ROLE",), asynchronous=asynchronous)[0][0] == b"master"


@both
@pytest.mark.parametrize("theirs", ["blocking", "asyncio"])
def test_a_callers_client_for_the_master_is_copied(
    group: SentinelGroup, asynchronous: bool, theirs: str
) -> None:
    addresses = [("127.0.0.1", sentinel.port) for sentinel in group.sentinels]
    kind = redis.sentinel.Sentinel if theirs == "blocking" else redis.asyncio.sentinel.Sentinel
    manager = kind(addresses, sentinel_kwargs={"password": OTHER}, password=PASSWORD)
    client = manager.master_for("mymaster", socket_timeout=99)
    assert describe(client) == "sentinel://mymaster"
    assert commands(client, {}, ("ROLE",), asynchronous=asynchronous)[0][0] == b"master"


@both
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"master_name": "other"}, "knows no master named 'other'"),
        ({"sentinel_kwargs": {}}, "Authentication required"),
        ({"sentinel_kwargs": {"password": "Zq9-wrong"}}, "invalid username-password pair"),
        ({"min_other_sentinels": 3}, "knows 2 other Sentinels (min_other_sentinels)"),
    ],
)
def test_what_is_wrong_with_sentinels_is_told_without_secrets(
    group: SentinelGroup,
    asynchronous: bool,
    change: dict[str, Any],
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    options = {**group.options, **change}
    error = commands(group.url, options, ("PING",), asynchronous=asynchronous)[0]
    assert isinstance(error, redis.ConnectionError)
    assert str(error).count(told) == 3, error
    assert "Zq9" not in f"{error!r} {error.__cause__!r} {error.__context__!r} {caplog.text}"


def _paused(group: SentinelGroup, count: int) -> Iterator[None]:
    for sentinel in group.sentinels[:count]:
        sentinel.process.pause()
    yield
    for sentinel in group.sentinels[:count]:
        sentinel.process.resume()


@pytest.fixture
def two_paused(group: SentinelGroup) -> Iterator[None]:
    yield from _paused(group, 2)


@pytest.fixture
def all_paused(group: SentinelGroup) -> Iterator[None]:
    yield from _paused(group, 3)


@both
@pytest.mark.usefixtures("two_paused")
def test_silent_sentinels_cost_little(group: SentinelGroup, asynchronous: bool) -> None:
    # At the most two of those that are silent are asked within the time for one connect.
    found = commands(
        group.url, group.options, ("ROLE",), asynchronous=asynchronous, connect_timeout=BRIEF
    )
    assert found[0][0] == b"master"


@both
@pytest.mark.usefixtures("all_paused")
def test_asking_takes_no_longer_than_its_limit(
    group: SentinelGroup, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    connection = Locator._connection

    def spied(locator: Locator, address: Any) -> Any:
        made.append(connection(locator, address))
        return made[-1]

    monkeypatch.setattr(Locator, "_connection", spied)
    # They are silent until the end of the test, so whatever comes back was given up.
    found = commands(
        group.url, group.options, ("PING",), asynchronous=asynchronous, connect_timeout=BRIEF
    )
    assert isinstance(found[0], (redis.TimeoutError, redis.ConnectionError)), found
    # Each costs a part of the limit at most, and all together not more than all of it.
    assert 2 <= len(made) <= 5
    assert {each.socket_timeout for each in made} == {BRIEF / 5}
    assert {each.socket_connect_timeout for each in made} == {BRIEF / 5}


@both
def test_a_demoted_master_is_left(start_server: Callable[..., Server], asynchronous: bool) -> None:
    """Behind a name that follows the master, only the server itself can tell that it is none."""
    old, new = start_server(), start_server()
    who, write = ("CLIENT", "ID"), ("SET", "x", "1")

    def demote() -> None:
        old.follow(new)
        old.wait_ready()

    before, same, _, refusal, after = commands(
        old.url, {}, who, who, demote, write, who, asynchronous=asynchronous
    )
    assert isinstance(refusal, redis.exceptions.ReadOnlyError)
    assert before == same != after, "the refusal ends the connection"


@pytest.fixture(scope="module", params=installed_kinds()[:1])
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with Cluster(request.param, password=PASSWORD) as cluster:
        yield cluster


@both
def test_the_slots_master_is_found_and_followed(cluster: Cluster, asynchronous: bool) -> None:
    former = cluster.master_of(KEY)

    def fail_over() -> None:
        cluster.wait_whole()
        cluster.replica_of(former).ask("CLUSTER", "FAILOVER")
        cluster.wait_failed_over(KEY, former)
        wait_until(lambda: former.role() == "slave", 30, "the old master as a replica")

    setting = ("SET", KEY, "1")
    first, _, moved, again = commands(
        cluster.url(KEY), {}, setting, fail_over, setting, setting, asynchronous=asynchronous
    )
    assert (first, again) == (b"OK", b"OK") or (first, again) == (True, True)
    # The node has executed nothing, and said who would.
    assert isinstance(moved, redis.exceptions.MovedError)


@both
@pytest.mark.parametrize(
    "spelling",
    [
        lambda url, nodes: (url.replace("redis+cluster", "redis-cluster"), {}),
        lambda url, nodes: ("redis-cluster://nowhere.invalid", {"startup_nodes": nodes}),
        lambda url, nodes: (
            url.split(",")[0].replace("redis+cluster", "redis"), {"cluster": True}
        ),
        lambda url, nodes: (url.replace(",", f";redis+cluster://:{PASSWORD}@"), {}),
    ],
    ids=["redis-cluster", "startup_nodes", "cluster option", "several URLs"],
)  # fmt: skip
def test_other_spellings_find_it_too(
    cluster: Cluster, asynchronous: bool, spelling: Callable[..., tuple[str, dict[str, Any]]]
) -> None:
    nodes = [{"host": "127.0.0.1", "port": node.port} for node in cluster.seeds(KEY)]
    url, options = spelling(cluster.url(KEY), nodes)
    if "startup_nodes" in options:
        options["password"] = PASSWORD
    step: Sequence[str] = ("GET", KEY)
    result = commands(url, options, tuple(step), asynchronous=asynchronous)[0]
    assert not isinstance(result, Exception), result


@both
def test_a_callers_cluster_client_is_copied(cluster: Cluster, asynchronous: bool) -> None:
    node = cluster.seeds(KEY)[0]
    with redis.RedisCluster("127.0.0.1", node.port, password=PASSWORD) as client:
        assert f"127.0.0.1:{node.port}" in describe(client)
        result = commands(client, {}, ("GET", KEY), asynchronous=asynchronous)[0]
    assert not isinstance(result, Exception), result


@both
def test_a_callers_asyncio_cluster_client_is_copied(cluster: Cluster, asynchronous: bool) -> None:
    node = cluster.seeds(KEY)[0]

    async def make() -> Any:
        return redis.asyncio.RedisCluster("127.0.0.1", node.port, password=PASSWORD)

    client = asyncio.run(make())
    result = commands(client, {}, ("GET", KEY), asynchronous=asynchronous)[0]
    assert not isinstance(result, Exception), result


@both
@pytest.mark.parametrize("theirs", ["valkey", "valkey.asyncio"])
@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_client_of_valkey_py_is_copied(
    start_server: Callable[..., Server], asynchronous: bool, theirs: str, way: str
) -> None:
    module = pytest.importorskip(theirs)
    server = start_server(password=PASSWORD, unix_socket=True)
    where: dict[str, Any] = {"host": server.host, "port": server.port}
    if way == "unix":
        where = {"unix_socket_path": str(server.socket_path)}
    if way == "unix" and redis.__version__.startswith("5.0."):
        pytest.skip("unix sockets of redis-py 5.0 have no time limit, and are refused")
    client = module.Valkey(**where, password=PASSWORD, db=2, decode_responses=True)
    told = commands(client, {}, ("CLIENT", "LIST"), asynchronous=asynchronous)[0]
    assert "db=2" in str(told)
    assert describe(client).endswith("db=2" if way == "unix" else "/2")
