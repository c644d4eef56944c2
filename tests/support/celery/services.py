"""Celery's own beat service with our scheduler, on a thread of the test process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.beat import Service

from celery_safe_leader.beat import LeaderScheduler
from tests.support.processes.cleanup import Closes
from tests.support.processes.waiting import wait_until

__all__ = ["BeatService", "shop"]


def shop(broker: str, key: str, schedule: Mapping[str, Any], **settings: Any) -> Celery:
    """Make an app whose task ``shop.work`` takes anything; its queue is named like the key."""
    app = Celery("shop", broker=broker, set_as_current=False)
    app.conf.update(
        leader_ttl=0.6,
        leader_wait=0.1,
        leader_key=key,
        task_default_queue=key,
        beat_schedule=dict(schedule),
        **settings,
    )

    @app.task(name="shop.work", shared=False)
    def work(*args: Any, **kwargs: Any) -> Any:
        return kwargs.get("entry")

    return app


class BeatService(Closes):
    """A running beat. As a context manager it ends itself.

    Args:
        app: Its app.
        scheduler: Of another release, if it is not the present one.
    """

    def __init__(self, app: Celery, scheduler: type[Any] = LeaderScheduler) -> None:
        self.service = Service(app, scheduler_cls=scheduler)
        # Here, so that what its constructor raises is raised to the test.
        self.scheduler: Any = self.service.scheduler
        self._thread = threading.Thread(target=self.service.start, name="beat", daemon=True)
        self._thread.start()

    @property
    def leads(self) -> bool:
        """Whether it leads."""
        return bool(self.scheduler.is_leader)

    def wait_leading(self, timeout: float = 30.0) -> None:
        """Wait until it leads."""
        wait_until(lambda: self.leads, timeout, "leadership")

    def close(self) -> None:
        """End it as beat's signal handler does: close the scheduler, then leave the loop."""
        self.service.stop()
        self._thread.join(10)
        assert not self._thread.is_alive()
