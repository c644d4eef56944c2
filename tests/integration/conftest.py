"""Candidates in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.library.shells import SHELLS, AsyncioShell, BlockingShell, Shell
from tests.support.candidates.resigned import leave_resigned
from tests.support.servers import Server, installed_kinds


@pytest.fixture(params=SHELLS)
def start_candidate(request: pytest.FixtureRequest) -> Iterator[Callable[..., Shell]]:
    """Make candidates, of both libraries in turn; those not shut down are in the end."""
    made: list[Shell] = []

    def start(**options: Any) -> Shell:
        build = BlockingShell if request.param == "blocking" else AsyncioShell
        made.append(build(**options))
        return made[-1]

    yield start
    for shell in reversed(made):
        shell.close()


@pytest.fixture
def start_blocking() -> Iterator[Callable[..., Shell]]:
    """Make blocking candidates only."""
    made: list[Shell] = []

    def start(**options: Any) -> Shell:
        made.append(BlockingShell(**options))
        return made[-1]

    yield start
    for shell in reversed(made):
        shell.close()


@pytest.fixture(scope="session")
def quick_server() -> Iterator[Server]:
    """One server for tests that are about the library and not about the server."""
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture
def terms(quick_server: Server, key: str) -> dict[str, Any]:
    """Arguments of a candidate that is elected at once, and has no lease that soon runs out."""
    leave_resigned(quick_server.url, key)
    return {"redis": quick_server.url, "key": key, "ttl": 3.0, "wait": 0.1}
