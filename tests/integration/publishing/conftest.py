"""Publishers that are closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_safe_leader._publishing.publisher import Publisher
from tests.support.servers import Server, installed_kinds


@pytest.fixture(autouse=True)
def _one_is_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a single message fill in an envelope, too."""
    monkeypatch.setattr("celery_safe_leader._publishing.publisher._MANY", 1)


@pytest.fixture
def publisher_of() -> Iterator[Callable[[Any], Publisher]]:
    """Make the publisher of an app."""
    made: list[Publisher] = []

    def make(app: Any) -> Publisher:
        made.append(Publisher(app))
        return made[-1]

    yield make
    for publisher in made:
        publisher.close()


@pytest.fixture(scope="session")
def _broker() -> Iterator[Server]:
    with Server(installed_kinds()[0], unix_socket=True) as server:
        yield server


@pytest.fixture
def broker_server(_broker: Server) -> Server:
    """An empty server; it is the same for many tests, which leave it running."""
    _broker.client().flushall()
    return _broker
