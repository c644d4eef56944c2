"""Celery's own scheduler on the same schedule, beside ours: what it would have sent."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from tests.support.celery.periodic import received
from tests.support.celery.services import shop
from tests.support.processes.cleanup import Closes

__all__ = ["CountingScheduler", "StockBeat", "stock_messages"]


class StockBeat(Closes):
    """Stock beat's loop on a thread; instead of sending, it counts.

    Args:
        app: Its ``beat_schedule`` is followed.
    """

    def __init__(self, app: Celery) -> None:
        self.sent: Counter[Any] = Counter()
        """Name of the entry, as the schedule has it -> messages."""
        self.error: BaseException | None = None
        """What ended the loop, if it did not end by itself."""
        self._closing = threading.Event()
        self.scheduler = CountingScheduler(app, self.sent)
        self._thread = threading.Thread(target=self._loop, name="stock beat", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        try:
            while not self._closing.is_set():
                self._closing.wait(max(0.0, min(0.05, self.scheduler.tick())))
        except BaseException as exc:
            self.error = exc

    def close(self) -> None:
        """End the loop."""
        self._closing.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


class CountingScheduler(Scheduler):
    """Counts what it would send, by the name of the entry."""

    def __init__(self, app: Celery, sent: Counter[Any]) -> None:
        self._sent = sent
        super().__init__(app)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        self._sent[entry.name] += 1
        time.sleep(0.000_1)  # a schedule that is always due must not starve the test

    @property
    def producer(self) -> Any:
        return None


def stock_messages(
    entries: Mapping[str, Any], count: int, kind: type[Scheduler] = Scheduler
) -> list[dict[str, Any]]:
    """Let stock beat send what is due, as it is sent, and return so many messages in their order.

    Args:
        entries: Its ``beat_schedule``.
        count: How many are due. There must be no more.
        kind: What sends them: stock's scheduler, or one derived from it.
    """
    app = shop("memory://", f"stock-{uuid.uuid4().hex}", entries, result_expires=None)
    scheduler = kind(app)
    while scheduler.tick() == 0.0:
        pass
    found = received(app, app.conf.task_default_queue)
    assert len(found) == count
    return found
