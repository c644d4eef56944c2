"""Fixtures: real servers, a proxy, child processes, and a clean environment.

A test that only reads and writes keys takes ``shared_server`` and ``key``. A test that stops,
pauses or empties a server takes ``server`` (each kind that is installed) or ``valkey_server``.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from kombu.utils.url import maybe_sanitize_url

from tests.flaky import rule
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, clean_environment
from tests.support.servers import ExternalServer, Server
from tests.support.servers.kinds import KINDS, OLDEST, all_kinds, installed_kinds
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls
from tests.support.turns import take_turns

# No test judges how long something takes, nor does Hypothesis.
settings.register_profile(
    "without deadlines", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("without deadlines")

# Before anything imports Celery, which reads some of them at import.
for _name in set(os.environ) - set(clean_environment()):
    del os.environ[_name]

EXTERNAL_URL = os.environ.get("SAFE_LEADER_TEST_URL", "")
"""A server that is there already: tests of ``shared_server`` run on it too."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rule.mark(items)
    take_turns(items)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for kind in sorted({*KINDS, OLDEST} - set(all_kinds())):
        terminalreporter.write_line(
            f"NOT RUN on {kind}: there is no such server here; "
            f"the tests of servers ran on {', '.join(all_kinds()) or 'nothing'} only",
            yellow=True,
        )
    if not rabbitmq_urls():
        terminalreporter.write_line(
            f"NOT RUN on RabbitMQ: nothing answers at {maybe_sanitize_url(RABBITMQ_URL)}; "
            "publishing to it, its confirmations and returned messages, and workers with it "
            "were not tested",
            yellow=True,
        )


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what an earlier test or an import may have left in the environment."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _outside_of_tasks() -> None:
    """Undo what a worker that an earlier test ran here leaves behind: result.get() is refused.

    And results of an earlier test, whose server is gone, are soon given up: before 5.7 Celery tries
    20 times to reconnect when it forgets one.
    """
    from celery.backends.base import Backend
    from celery.result import _set_task_join_will_block  # as celery.contrib.testing does

    _set_task_join_will_block(False)
    Backend.retry_policy = {**Backend.retry_policy, "max_retries": 1}


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """Undo what Celery and Django set up when a test runs them in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.name.startswith("celery_safe_leader"):
            logger.disabled, logger.propagate = False, True
            logger.setLevel(logging.NOTSET)


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Start servers: ``start_server("redis", password="x")``. Arguments are those of Server."""
    servers: list[Server] = []

    def start(kind: str = "", **options: Any) -> Server:
        servers.append(Server(kind or installed_kinds()[0], **options))
        return servers[-1].start()

    yield start
    for server in reversed(servers):
        server.close()


@pytest.fixture(params=installed_kinds())
def server(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """A fresh server of each kind, which the test may break."""
    return start_server(request.param)


@pytest.fixture
def valkey_server(start_server: Callable[..., Server]) -> Server:
    """A fresh Valkey, which the test may break."""
    return start_server("valkey")


@pytest.fixture(scope="session", params=[*all_kinds(), *(["external"] * bool(EXTERNAL_URL))])
def shared_server(request: pytest.FixtureRequest) -> Iterator[ExternalServer]:
    """A server of each kind for the whole run: use keys of your own, and leave it as it is."""
    if request.param == "external":
        server = ExternalServer(EXTERNAL_URL)
    else:
        server = Server(request.param).start()
    yield server
    server.close()


@pytest.fixture
def key() -> str:
    """The name of an election that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def start_proxy() -> Iterator[Callable[[Server], Proxy]]:
    """Put a proxy in front of a server: ``start_proxy(server)``."""
    proxies: list[Proxy] = []

    def start(server: Server) -> Proxy:
        proxies.append(Proxy(server.port, server.host))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def proxy(start_proxy: Callable[[Server], Proxy], server: Server) -> Proxy:
    """A proxy in front of ``server``."""
    return start_proxy(server)


@pytest.fixture
def children() -> Iterator[Children]:
    """Starts child processes, and ends them after the test."""
    with_children = Children()
    yield with_children
    with_children.close()
