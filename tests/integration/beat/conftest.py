"""Leaders that are driven step by step, in both ways of publication, and what they publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.beat.driven_leaders import TRANSACTIONAL, WRITE_AHEAD, DrivenLeaders, Queue
from tests.support.network.proxy import Proxy
from tests.support.servers import Server


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def stage(
    quick_server: Server, key: str, request: pytest.FixtureRequest
) -> Iterator[DrivenLeaders]:
    """Leaders of one key, in each way in turn."""
    stage = DrivenLeaders(quick_server, key, request.param)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture
def proxy(quick_server: Server, start_proxy: Callable[[Server], Proxy]) -> Proxy:
    """A way to the server that can be cut."""
    return start_proxy(quick_server)


@pytest.fixture(params=[TRANSACTIONAL, WRITE_AHEAD])
def stage_by_proxy(
    quick_server: Server, key: str, proxy: Proxy, request: pytest.FixtureRequest
) -> Iterator[DrivenLeaders]:
    """Leaders whose ledger's connection goes by way of the proxy."""
    stage = DrivenLeaders(quick_server, key, request.param, ledger=proxy.url())
    yield stage
    stage.client.config_set("maxmemory", 0)
    for close in stage.closing:
        close()


@pytest.fixture
def queue(stage: DrivenLeaders) -> Iterator[Queue]:
    """What they have published."""
    queue = Queue(stage.broker, stage.key)
    yield queue
    queue.close()
