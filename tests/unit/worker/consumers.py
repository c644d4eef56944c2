"""Real consumers of a worker, which connect to nothing before they are started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.worker.consumer.consumer import Consumer

__all__ = ["make_consumer"]


class Pool:
    """What a consumer looks for in a pool before it is started."""

    num_processes = 1
    is_green = False
    uses_semaphore = False
    apply_async = staticmethod(lambda *args, **kwargs: None)


def make_consumer(app: Celery) -> Any:
    """Create the consumer of a worker of an app."""
    state = SimpleNamespace(revoked=set())
    return Consumer(
        lambda request: None,
        hostname="here",
        pool=Pool(),
        app=app,
        timer=SimpleNamespace(call_at=None),
        controller=SimpleNamespace(state=state, use_eventloop=False, consumer=None),
    )
