"""Workers with leader-only tasks, by each kind of broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.worker.stage import BROKERS, WorkerFleet
from tests.support.processes import Children
from tests.support.servers import Server
from tests.support.servers.rabbitmq import RABBITMQ_URL, rabbitmq_urls


@pytest.fixture(params=BROKERS)
def fleet(
    request: pytest.FixtureRequest,
    children: Children,
    tmp_path: Path,
    valkey_server: Server,
) -> Iterator[WorkerFleet]:
    """Workers with leader-only tasks, by each kind of broker."""
    broker = rabbitmq_urls()[0] if request.param == "amqp" else valkey_server.url
    made = WorkerFleet(children, tmp_path, valkey_server, broker)
    yield made
    made.close()


@pytest.fixture
def on_rabbitmq(children: Children, tmp_path: Path, valkey_server: Server) -> Iterator[WorkerFleet]:
    """Workers with leader-only tasks on RabbitMQ."""
    fleet = WorkerFleet(children, tmp_path, valkey_server, RABBITMQ_URL)
    yield fleet
    fleet.close()
