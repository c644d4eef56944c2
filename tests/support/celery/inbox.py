"""The queue that beats send to, as a worker would see it."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer

from tests.support.processes.cleanup import Closes
from tests.support.processes.waiting import PATIENCE, wait_until

__all__ = ["Dispatch", "Inbox", "by_two", "gaps"]


@dataclass(frozen=True)
class Dispatch:
    """A message that came out of the queue."""

    at: float
    """``time.monotonic()`` when it came."""
    task: str
    task_id: str
    origin: str
    """Which process sent it."""
    token: int
    covers: tuple[int, int]
    """First and last due moment, in microseconds since 1970."""
    headers: Mapping[str, Any]
    argsrepr: str
    kwargsrepr: str

    @property
    def pid(self) -> int:
        """Process id of the beat that sent it."""
        found = re.match(r"gen(\d+)@", self.origin)
        assert found, self.headers
        return int(found[1])


def by_two(sent: Sequence[Dispatch], least: float) -> list[tuple[Dispatch, Dispatch]]:
    """List the neighbours that two beats sent less than ``least`` seconds apart."""
    ordered = sorted(sent, key=lambda dispatch: dispatch.at)
    pairs = itertools.pairwise(ordered)
    return [(a, b) for a, b in pairs if a.origin != b.origin and b.at - a.at < least]


def gaps(sent: Sequence[Dispatch], step: float) -> list[tuple[Dispatch, Dispatch]]:
    """List the neighbours between whose ranges of moments is not just one step of an interval.

    A run that was published twice, since the first leader died before it could say that it was
    published, counts once: both messages have one id, of which workers run the first.
    """
    runs = {dispatch.task_id: dispatch for dispatch in sent}
    ordered = sorted(runs.values(), key=lambda dispatch: dispatch.covers[1])
    pairs = itertools.pairwise(ordered)
    step_us = round(step * 1_000_000)
    return [(a, b) for a, b in pairs if b.covers[0] - a.covers[1] != step_us]


CLEANUP = "celery.backend_cleanup"
"""Celery's own entry, due at 04:00: a clock that is set an hour on may pass that."""


class Inbox(Closes):
    """Takes every message out of a queue as soon as it is there, and keeps all but Celery's own.

    Args:
        broker: URL.
        queue: Its name. It is deleted in the end.
    """

    def __init__(self, broker: str, queue: str = "celery") -> None:
        self._connection = Connection(broker)
        self._queue = Queue(queue)
        self._all: list[Dispatch] = []
        self._lock = threading.Lock()
        self._closing = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._consume, name=f"inbox {queue}", daemon=True)
        self._thread.start()
        if not self._ready.wait(PATIENCE):
            raise RuntimeError(f"no consumer of {queue} within {PATIENCE:g} s")

    def _consume(self) -> None:
        with self._connection as connection:
            channel = connection.default_channel
            with Consumer(channel, [self._queue], on_message=self._take, accept=["json"]):
                self._ready.set()
                while not self._closing:
                    try:
                        connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue
            self._queue(channel).delete()
            # Celery's own exchange, which it names like its default queue.
            Exchange(self._queue.name, channel=channel).delete()

    def _take(self, message: Any) -> None:
        now, headers = time.monotonic(), message.headers
        message.ack()
        if headers["task"] == CLEANUP:
            return
        first, last = map(int, headers.get("leader_covers", "0,0").split(","))
        dispatch = Dispatch(
            now,
            headers["task"],
            headers["id"],
            headers["origin"],
            headers.get("leader_token", 0),
            (first, last),
            headers,
            headers["argsrepr"],
            headers["kwargsrepr"],
        )
        with self._lock:
            self._all.append(dispatch)

    def sent(self, entry: str = "", *, since: float = 0.0) -> list[Dispatch]:
        """Return what came, oldest first.

        Args:
            entry: Value of the keyword argument ``entry`` of the task; all if not given.
            since: A moment of ``time.monotonic()``.
        """
        with self._lock:
            every = list(self._all)
        wanted = f"'entry': '{entry}'"
        return [d for d in every if d.at >= since and (not entry or wanted in d.kwargsrepr)]

    def wait_for(
        self,
        count: int,
        timeout: float = PATIENCE,
        *,
        entry: str = "",
        since: float = 0.0,
        pid: int | None = None,
    ) -> list[Dispatch]:
        """Wait until so many have come, and return them all; with ``pid``, those of one beat."""

        def enough() -> list[Dispatch]:
            found = [d for d in self.sent(entry, since=since) if pid in (None, d.pid)]
            return found if len(found) >= count else []

        def standing() -> str:
            came = Counter((d.task, d.kwargsrepr, d.pid) for d in self.sent())
            return f"{count} of {entry or 'all'}; there came {dict(came)}"

        return wait_until(enough, timeout, standing)

    def close(self) -> None:
        """Stop, and delete the queue."""
        self._closing = True
        self._thread.join(10)
