"""Celery's own scheduler on the same schedule, beside ours: what it would have sent."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from celery import Celery
from celery.beat import Scheduler

from tests.support.processes.cleanup import Closes

__all__ = ["CountingScheduler", "StockBeat"]


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
        self._scheduler = CountingScheduler(app, self.sent)
        self._thread = threading.Thread(target=self._loop, name="stock beat", daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        try:
            while not self._closing.is_set():
                self._closing.wait(max(0.0, min(0.05, self._scheduler.tick())))
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
