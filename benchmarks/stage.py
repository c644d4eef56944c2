"""What schedulers are measured on: a broker, a Redis, and an app whose entries are due together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from kombu.connection import Connection

from tests.support.servers import installed_kinds

__all__ = ["TASK", "Rig", "server_kind"]

TASK = "shop.work"
"""What all entries run."""
_EVERY = 3600.0
_KEY = "bench"


@dataclass
class Rig:
    """What a measurement runs on."""

    broker: str
    """URL of the broker."""
    state: str
    """URL of the Redis that holds elections, ledgers and locks."""
    folder: Path
    """For schedule files."""
    queue: str = "celery"

    def app(self, entries: int, due: float, *, warm_up: bool = True) -> Celery:
        """Make an app with entries that are due once, all at the same moment.

        One more is due already. It makes connections, queues and scripts known, as they are in
        a beat that has run for a while.

        Args:
            entries: How many.
            due: Seconds since 1970.
            warm_up: Whether there is that one more.
        """
        app = Celery("bench", set_as_current=False)
        app.conf.update(
            broker_url=self.broker,
            broker_connection_retry_on_startup=True,
            # With RabbitMQ, for all: what is not confirmed may be lost.
            broker_transport_options={"confirm_publish": True} if self.amqp else {},
            task_default_queue=self.queue,
            redbeat_redis_url=self.state,
            redbeat_redis_options={},
            multibeat_url=self.state,
            leader_url=self.state,
            leader_key=_KEY,
            # So long that a machine with other work to do lets it be renewed.
            leader_ttl=5.0,
            leader_wait=0.2,
        )
        app.task(name=TASK, shared=False)(_work)
        app.finalize()  # as `celery beat` does before it makes its scheduler
        last = datetime.fromtimestamp(due, timezone.utc) - timedelta(seconds=_EVERY)
        app.conf.beat_schedule = {
            f"entry-{number}": {
                "task": TASK,
                "schedule": _EVERY,
                "args": (number, "some text"),
                "kwargs": {"flag": True},
                "last_run_at": last,
            }
            for number in range(entries)
        }
        if not warm_up:
            return app
        app.conf.beat_schedule["warm-up"] = {
            "task": TASK,
            "schedule": _EVERY,
            "args": (-1, "some text"),
            "kwargs": {"flag": True},
            "last_run_at": last - timedelta(seconds=_EVERY / 2),
        }
        return app

    @property
    def amqp(self) -> bool:
        """Whether the broker is RabbitMQ."""
        return self.broker.startswith("amqp")

    @contextlib.contextmanager
    def arrivals(self) -> Iterator[Callable[[], int]]:
        """Count the messages in the queue, over a connection of its own."""
        if not self.amqp:
            with redis.Redis.from_url(self.broker) as client:
                yield lambda: int(client.llen(self.queue))
            return
        with Connection(self.broker) as connection:
            channel = connection.default_channel
            yield lambda: int(channel.queue_declare(self.queue, passive=True).message_count)

    def hold_election(self) -> None:
        """Leave a record of which the leader has resigned: the next one need not wait for a ttl."""
        # Not at the top: older releases, which also run on this stage, keep them elsewhere.
        from celery_safe_leader._core.options import Options
        from celery_safe_leader._store.keys import BEAT, ElectionKeys
        from celery_safe_leader.leader import build_leader

        keys = ElectionKeys(_KEY, BEAT)
        with build_leader(self.state, keys, Options(0.4), {}) as leader:
            leader.wait_until_leader(20)

    def clear(self) -> None:
        """Remove everything: queue, ledger, locks."""
        for url in {self.broker, self.state} - ({self.broker} if self.amqp else set()):
            with redis.Redis.from_url(url) as client:
                client.flushall()
        if self.amqp:
            with Connection(self.broker) as connection:
                connection.default_channel.queue_delete(self.queue)


def server_kind() -> str:
    """Return the kind of server that is measured with: Redis, unless it is not here."""
    return "redis" if "redis" in installed_kinds() else "valkey"


def _work(*args: Any, **kwargs: Any) -> None:
    pass
