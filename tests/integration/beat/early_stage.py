"""Leaders that a test drives itself, and the queue that they send to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._beat.pipeline import make_dispatcher
from celery_safe_leader._dispatch.tenure import Gate, Tenure
from celery_safe_leader._ledger.codec import SENTINEL
from celery_safe_leader._schedules.moments import to_datetime
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.beat import LeaderScheduler
from tests.support.celery.services import shop
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

__all__ = ["DrivenLeaders", "Leader", "Queue", "Sent"]

HOUR = 3600.0


class DrivenLeaders:
    """Leaders that a test drives itself, and entries that are due so many seconds from now."""

    def __init__(self, server: Server, key: str) -> None:
        self.server, self.key = server, key
        self.client = server.client(decode_responses=False)
        self.names = LedgerKeys(key)
        self.closing: list[Callable[[], None]] = []
        self.token = 0

    def entry(self, name: str, due_in: float, every: float = HOUR, **more: Any) -> dict[str, Any]:
        moment = time.time() + due_in
        last = to_datetime(round((moment - every) * 1_000_000))
        common = {"task": "shop.work", "schedule": every, "kwargs": {"entry": name}}
        return {**common, "last_run_at": last, **more}

    def app(self, **entries: Any) -> Celery:
        return shop(self.server.url, self.key, entries)

    def leader(self, app: Celery) -> Leader:
        self.token += 1
        record: dict[Any, Any] = {"holder": "a", "token": self.token, "resigned": 0}
        record |= {"renewal": f"r{self.token}", "ttl": 600, "epoch": "e"}
        self.client.hset(ElectionKeys(self.key, "beat").lease, mapping=record)
        leader = Leader(self, app, self.token)
        self.closing += [leader.dispatcher.close, leader.scheduler.close]
        return leader

    def pending(self) -> set[str]:
        raw: Any = self.client.hgetall(self.names.pending)
        return {name.decode() for name in raw if name != SENTINEL}

    def again(self) -> int:
        return len(self.client.keys(f"*{self.key}*again*"))


class Sent(NamedTuple):
    """A message that came out of the queue."""

    late: float
    """Seconds after its moment."""
    covers: tuple[int, int]
    headers: dict[str, Any]


class Queue:
    """Takes every message as soon as it is there."""

    def __init__(self, server: Server, name: str) -> None:
        self._client, self._name = server.client(), name
        self._sent: list[Sent] = []
        self._closing = False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while not self._closing:
            taken: Any = self._client.brpop([self._name], timeout=0.05)
            if taken:
                at, headers = time.time(), json.loads(taken[1])["headers"]
                first, last = map(int, headers["leader_covers"].split(","))
                self._sent.append(Sent(at - last / 1e6, (first, last), headers))

    def sent(self, entry: str = "") -> list[Sent]:
        return [sent for sent in list(self._sent) if f"'{entry}" in sent.headers["kwargsrepr"]]

    def wait_for(self, count: int) -> list[Sent]:
        return wait_until(lambda: self.sent() if len(self.sent()) >= count else [], 30)

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)


class Leader:
    """A dispatcher with a lease of its own."""

    def __init__(self, stage: DrivenLeaders, app: Celery, token: int) -> None:
        self.app = app
        settings = conf.read(app)
        self.scheduler = LeaderScheduler(app, lazy=False)
        client = stage.server.client(decode_responses=False)
        roster = self.scheduler._roster
        self.dispatcher = make_dispatcher(app, settings, client, "beat", roster)
        self.still_leads: Gate = lambda: True
        self._tenure = Tenure("a", token, lambda: self.still_leads())

    def run(self) -> float:
        """Do what a tick does, and return the pause."""
        self.scheduler._roster.refresh(self.scheduler)
        return self.dispatch()

    def dispatch(self) -> float:
        """Do what is due, and return the pause; changes of the schedule are not noticed."""
        return self.dispatcher.run(self._tenure)

    def run_for(self, seconds: float) -> None:
        """Tick for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(max(0.0, min(self.run(), left)))
        self.run()  # if the machine slept through the last one
