"""Both stores look at the server once, and say what will cost somebody a night."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.server_check import ServerCheck
from tests.contract.conftest import StoreUnderTest
from tests.contract.requests import ask, observe
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

MakeStore = Callable[..., StoreUnderTest]


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("memory", "policy", "warned"),
    [
        ("100mb", "allkeys-lru", True),
        ("100mb", "volatile-ttl", True),
        ("100mb", "noeviction", False),
        ("0", "allkeys-lru", False),
    ],
)
def test_a_server_that_may_evict_is_told_of_once(
    make_store: MakeStore,
    start_server: Callable[..., Server],
    caplog: pytest.LogCaptureFixture,
    memory: str,
    policy: str,
    warned: bool,
) -> None:
    config = {"maxmemory": memory, "maxmemory-policy": policy}
    server = start_server(installed_kinds()[0], config=config)
    store = make_store(server.url)
    for _ in range(3):
        ask(store, observe())
    told = warnings_of(caplog)
    assert len(told) == (1 if warned else 0), told
    assert all(policy in line and "noeviction" in line for line in told)
    stats: Any = server.client().info("commandstats")
    # Two within each look; the test's own come after.
    assert stats["cmdstat_info"]["calls"] <= 3 * 2 + 1 + 5


@pytest.mark.parametrize(
    ("version", "warned"),
    [
        ("6.0.16", True), ("5.0", True), ("6.2.0", False), ("7.2.4", False), ("", False),
        ("unknown", False),
    ],
)  # fmt: skip
def test_a_server_that_is_too_old_is_told_of(
    caplog: pytest.LogCaptureFixture, version: str, warned: bool
) -> None:
    ServerCheck(ElectionKeys("shop", "beat")).check({"redis_version": version})
    told = warnings_of(caplog)
    assert len(told) == warned
    assert all(version in line and "releases before 6.2 are not supported" in line for line in told)


@pytest.mark.parametrize("info", [None, b"x", [], {"maxmemory": "much", "maxmemory_policy": 7}])
def test_info_of_another_shape_is_no_matter(caplog: pytest.LogCaptureFixture, info: object) -> None:
    ServerCheck(ElectionKeys("shop")).check(info)
    assert warnings_of(caplog) == []
