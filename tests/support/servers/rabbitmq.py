"""The RabbitMQ that is there already, if one is: tests use queues of their own and delete them."""

from __future__ import annotations

import functools
import os

from kombu.connection import Connection
from kombu.exceptions import OperationalError

__all__ = ["RABBITMQ_URL", "rabbitmq_urls"]

RABBITMQ_URL = os.environ.get("SAFE_LEADER_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
"""Where it is looked for."""


@functools.cache
def rabbitmq_urls() -> tuple[str, ...]:
    """Return its URL, or nothing if it does not answer."""
    with Connection(RABBITMQ_URL, connect_timeout=2) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        except OperationalError as exc:
            if not isinstance(exc.__cause__, OSError):
                raise RuntimeError(f"RabbitMQ at {connection.as_uri()} answers: {exc}") from exc
            return ()
    return (RABBITMQ_URL,)
