"""Leaders that a test drives itself, and the queue that they send to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import redis
from celery import Celery
from kombu.messaging import Producer

from celery_safe_leader import conf
from celery_safe_leader._beat.background import BackgroundThread
from celery_safe_leader._beat.pipeline import make_dispatcher
from celery_safe_leader._clients import redis_client
from celery_safe_leader._dispatch.run import RunState
from celery_safe_leader._dispatch.tenure import Gate, Tenure
from celery_safe_leader._ledger.codec import Claim, decode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.results import ClaimOutcome, Next
from celery_safe_leader._schedules.moments import to_datetime
from celery_safe_leader._schedules.occurrence_id import occurrence_id
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.beat import LeaderScheduler
from tests.support.celery.services import shop
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

__all__ = [
    "HAS_BATCHES",
    "SCRIPTED",
    "TRANSACTIONAL",
    "WRITE_AHEAD",
    "DrivenLeaders",
    "Leader",
    "Queue",
    "Sent",
    "ticked",
    "ticked_aside",
]

HOUR = 3600.0
TRANSACTIONAL, WRITE_AHEAD = "transactional", "write-ahead"
HAS_BATCHES = hasattr(Producer, "batch")
"""Whether this kombu collects messages: 5.7 and later."""
SCRIPTED = TRANSACTIONAL if HAS_BATCHES else WRITE_AHEAD
"""The way of a plain run where broker and ledger are one database."""


class DrivenLeaders:
    """Leaders that a test drives itself, and entries that are due so many seconds from now."""

    def __init__(
        self, server: Server, key: str, way: str = TRANSACTIONAL, ledger: str = ""
    ) -> None:
        self.server, self.key, self.way = server, key, way
        self.ledger = ledger or server.url
        # Another database of the same server is another broker.
        self.broker = server.url if way == TRANSACTIONAL else server.url.removesuffix("/0") + "/1"
        self.client = server.client(decode_responses=False)
        self.names, self._prefix = LedgerKeys(key), ""
        self.closing: list[Callable[[], None]] = []
        self.token = 0
        self.scheduler_class: type[LeaderScheduler] = LeaderScheduler

    @property
    def takes(self) -> str:
        """The way that plain runs take with the installed kombu."""
        return SCRIPTED if self.way == TRANSACTIONAL else WRITE_AHEAD

    def prefix(self, prefix: str) -> None:
        """Expect the ledger under a prefix of all keys."""
        self.names, self._prefix = LedgerKeys(self.key, prefix), prefix

    def entry(self, name: str, due_in: float, every: float = HOUR, **more: Any) -> dict[str, Any]:
        moment = time.time() + due_in
        last = to_datetime(round((moment - every) * 1_000_000))
        common = {"task": "shop.work", "schedule": every, "kwargs": {"entry": name}}
        return {**common, "last_run_at": last, **more}

    def app(self, **entries: Any) -> Celery:
        return shop(self.broker, self.key, entries, leader_url=self.ledger)

    @property
    def lease(self) -> str:
        """Name of the lease record."""
        return ElectionKeys(self.key, "beat", self._prefix).lease

    def leader(self, app: Celery) -> Leader:
        leader = self.standby(app)
        leader.elect()
        return leader

    def standby(self, app: Celery) -> Leader:
        """Return one that does not lead yet."""
        leader = Leader(self, app)
        self.closing += [leader.dispatcher.close, leader.scheduler.close, leader.disconnect]
        return leader

    def next_token(self) -> int:
        """Let the lease record name a new tenure, and return its token."""
        self.token += 1
        record: dict[Any, Any] = {"holder": "a", "token": self.token, "resigned": 0}
        record |= {"renewal": f"r{self.token}", "ttl": 600, "epoch": "e"}
        self.client.hset(self.lease, mapping=record)
        return self.token

    def pending(self) -> set[str]:
        raw: Any = self.client.hgetall(self.names.pending)
        return {name.decode() for name in raw if name != SENTINEL}

    def runs(self) -> dict[str, bytes]:
        raw: Any = self.client.hgetall(self.names.runs)
        return {name.decode(): value for name, value in raw.items() if name != SENTINEL}

    def pause(self, number: int, *, resumed: bool = False) -> bool:
        """Pause the ledger, or end its pause; return whether it is whole, and it was done."""
        raw: Any = self.client.hget(self.names.runs, SENTINEL)
        if not raw or raw != self.client.hget(self.names.pending, SENTINEL):
            return False
        _, generation, step, state, owner = raw.split(b" ", 4)
        word, *rest = state.split(b"/")
        if word != b"whole" or not rest:
            return False
        kept = b"whole/%b/%d" % (rest[0], number)
        form, state = (b"1", kept) if resumed else (b"2", kept + b"/0")
        left = b" ".join((form, generation, step, state, owner))
        for name in (self.names.runs, self.names.pending):
            self.client.hset(name, SENTINEL, left)
        return True

    def claim(self, name: str, due_in: float) -> Claim:
        """Claim a run as an older leader would, under the present lease; nobody publishes it."""
        ledger = Ledger(self.client, self.key, "beat", ttl=10, clock=time.monotonic)
        ledger.adopt("a", self.token)
        after = decode_run(self.runs()[name])
        moment = round((time.time() + due_in) * 1_000_000)
        occurrence = occurrence_id(self.key, name, moment)
        claim = Claim(name, occurrence, moment, moment, after.fingerprint, self.token)
        # By a clock that is as far ahead, if it is to be.
        written = ledger.write([], [Next(claim, after)], ahead=max(0.0, due_in))
        assert written.claims == (ClaimOutcome.CLAIMED,)
        return claim

    def messages(self) -> list[Sent]:
        """Return what is in the queue, the oldest first."""
        with redis.Redis.from_url(self.broker) as client:
            raw: Any = client.lrange(self.key, 0, -1)
        return [read_message(each) for each in reversed(raw)]

    def again(self) -> int:
        return len(self.client.keys(f"*{self.key}*again*"))

    def accepted(self) -> int:
        return len(self.client.keys(f"*{self.key}*accepted*"))


class Sent(NamedTuple):
    """A message that came out of the queue."""

    late: float
    """Seconds after its moment."""
    covers: tuple[int, int]
    headers: dict[str, Any]

    @property
    def way(self) -> str:
        """How it was published."""
        once = self.headers["leader_publication"].startswith("once-")
        return TRANSACTIONAL if once else WRITE_AHEAD


def read_message(raw: bytes) -> Sent:
    """Return a message that has just arrived."""
    at, headers = time.time(), json.loads(raw)["headers"]
    first, last = map(int, headers["leader_covers"].split(","))
    return Sent(at - last / 1e6, (first, last), headers)


class Queue:
    """Takes every message as soon as it is there."""

    def __init__(self, url: str, name: str) -> None:
        self._client, self._name = redis.Redis.from_url(url), name
        self._sent: list[Sent] = []
        self._closing = False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        while not self._closing:
            taken: Any = self._client.brpop([self._name], timeout=0.05)
            if taken:
                self._sent.append(read_message(taken[1]))

    def sent(self, entry: str = "") -> list[Sent]:
        return [sent for sent in list(self._sent) if f"'{entry}" in sent.headers["kwargsrepr"]]

    def wait_for(self, count: int) -> list[Sent]:
        return wait_until(lambda: self.sent() if len(self.sent()) >= count else [], 30)

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)
        self._client.close()


class Leader:
    """A dispatcher with a lease of its own, once it is elected."""

    def __init__(self, stage: DrivenLeaders, app: Celery) -> None:
        self.app, self._stage = app, stage
        settings = conf.read(app)
        self.scheduler = stage.scheduler_class(app, lazy=False)
        client = redis_client(settings, stage.names.runs)
        self.disconnect: Callable[[], None] = client.connection_pool.disconnect
        roster = self.scheduler._roster
        self.dispatcher = make_dispatcher(self.scheduler, settings, client, "beat", roster)
        # No renewal looks at the ledger for it. Its own looks are not what these tests are about.
        self.dispatcher._ledger.ttl = 30.0
        self.still_leads: Gate = lambda: True
        self.is_ending: Gate = lambda: False

    def elect(self) -> None:
        """Begin a tenure. Whoever led before is fenced."""
        self._tenure = Tenure(
            "a",
            self._stage.next_token(),
            lambda: self.still_leads(),
            is_ending=lambda: self.is_ending(),
        )

    def stand_by(self) -> float:
        """Do the next step of a copy, and return the pause."""
        self.scheduler._roster.refresh(self.scheduler)
        return self.dispatcher.stand_by(lambda: True)

    def run(self) -> float:
        """Do what a tick does, and return the pause."""
        self.scheduler._roster.refresh(self.scheduler)
        return self.dispatch()

    def dispatch(self) -> float:
        """Do what is due, and return the pause; changes of the schedule are not noticed."""
        return self.dispatcher.run(self._tenure)

    def built(self) -> set[str]:
        """Return the entries with a message that is built and not published."""
        rounds = self.dispatcher._rounds
        assert rounds is not None
        runs = rounds._waiting._runs.values()
        return {run.name for run in runs if run.state is RunState.BUILT}

    def is_unanswered(self) -> bool:
        """Return whether a request to publish or claim runs has no reply yet."""
        rounds = self.dispatcher._rounds
        return rounds is not None and rounds._records.is_unanswered

    def run_for(self, seconds: float) -> None:
        """Tick for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(max(0.0, min(self.run(), left)))
        self.run()  # if the machine slept through the last one


def ticked(leader: Leader) -> bool:
    """Tick for a while; return true, for conditions that are waited for."""
    leader.run_for(0.1)
    return True


def ticked_aside(leader: Leader) -> bool:
    """Tick as beat does: not on the main thread, where user code may raise what ends the tests."""
    _ASIDE.run(lambda: leader.run_for(0.1))
    return True


_ASIDE = BackgroundThread("leader:dispatch")
