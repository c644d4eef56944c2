"""Both stores behind one face: the blocking one, and the asyncio one on a loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from celery_safe_leader._core.messages import Reply, Request
from celery_safe_leader._store.aio import AsyncRedisStore
from celery_safe_leader._store.connection.client import make_async_client, make_client
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.sync import RedisStore
from tests.support.servers import ExternalServer, Server
from tests.support.servers.kinds import all_kinds

LIMIT = 2.0
"""Seconds for connecting and for each reply."""


class StoreUnderTest(Protocol):
    """What both stores can do."""

    def execute(self, request: Request) -> Reply:
        """Execute a request."""

    def announce(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        """Let the candidate say something of itself."""

    def break_off(self, request: Request, after: float) -> None:
        """Execute a request and break it off, as ``stop()`` of a runner does."""

    def close(self) -> None:
        """Close it."""


class Blocking:
    """The store of the thread runner."""

    def __init__(self, url: str, key: str, role: str = "", **options: Any) -> None:
        clients = [make_client(url, connect_timeout=LIMIT, read_timeout=t) for t in (LIMIT, 30.0)]
        self._store = RedisStore(clients[0], clients[1], ElectionKeys(key, role), **options)

    def execute(self, request: Request) -> Reply:
        return self._store.execute(request)

    def announce(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        self._store.announce(read, every)

    def break_off(self, request: Request, after: float) -> None:
        timer = threading.Timer(after, self._store.interrupt)
        timer.start()
        try:
            self._store.execute(request)
        finally:
            timer.join()

    def close(self) -> None:
        self._store.close()


class Awaited:
    """The store of the asyncio runner."""

    def __init__(self, url: str, key: str, role: str = "", **options: Any) -> None:
        clients = [
            make_async_client(url, connect_timeout=LIMIT, read_timeout=t) for t in (LIMIT, 30.0)
        ]
        self._loop = asyncio.new_event_loop()
        self._store = AsyncRedisStore(clients[0], clients[1], ElectionKeys(key, role), **options)

    def execute(self, request: Request) -> Reply:
        return self._loop.run_until_complete(self._store.execute(request))

    def announce(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        self._store.announce(read, every)

    def break_off(self, request: Request, after: float) -> None:
        task = self._loop.create_task(self._store.execute(request))
        self._loop.call_later(after, task.cancel)
        self._loop.run_until_complete(task)

    def close(self) -> None:
        self._loop.run_until_complete(self._store.close())
        self._loop.close()


@pytest.fixture(params=[Blocking, Awaited], ids=["sync", "asyncio"])
def make_store(request: pytest.FixtureRequest, key: str) -> Iterator[Callable[..., StoreUnderTest]]:
    """Make stores of one kind: ``make_store(url, wait_replicas=1)``."""
    stores: list[StoreUnderTest] = []

    def make(url: str, **options: Any) -> StoreUnderTest:
        stores.append(request.param(url, key, **options))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture(params=all_kinds())
def server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """A fresh server of each kind, the oldest one too, which the test may break."""
    return start_server(request.param)


@pytest.fixture
def keys(key: str) -> ElectionKeys:
    return ElectionKeys(key)


@pytest.fixture
def store(
    make_store: Callable[..., StoreUnderTest], shared_server: ExternalServer
) -> StoreUnderTest:
    """A store on a server that is there for the whole run."""
    return make_store(shared_server.url)


@pytest.fixture
def client(shared_server: ExternalServer) -> Any:
    """A client that looks at what the store did."""
    return shared_server.client()
