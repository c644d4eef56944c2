"""A candidate in a process: the election, its clock and its listeners; all but the waiting.

The thread runner and the asyncio runner both build on this class.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable

from celery_safe_leader._core.election import Election
from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    Event,
    Lease,
    StoreFailed,
)
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, Reply, Request
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.state import State
from celery_safe_leader._core.status import Role, Status
from celery_safe_leader._runtime.clock import Clock, SystemClock, new_candidate_id, new_seed
from celery_safe_leader._runtime.diagnostics import Diagnostics
from celery_safe_leader._runtime.listeners import Listener, Listeners
from celery_safe_leader.errors import LifecycleError

__all__ = ["Candidate"]

logger = logging.getLogger("celery_safe_leader")
_all: weakref.WeakSet[Candidate] = weakref.WeakSet()


class Candidate:
    """Drives one election. Views are safe from any thread; the steps are for a runner."""

    def __init__(
        self,
        options: Options,
        name: str,
        *,
        deliver: Callable[[list[Event]], None],
        clock: Clock | None = None,
        reset: Callable[[], None] = lambda: None,
    ) -> None:
        """Make an idle candidate.

        Args:
            options: What it was told.
            name: Of the election, for people.
            deliver: Given new events, in order, under the candidate's lock; must not block.
            clock: Read instead of the system's.
            reset: Called in a forked child, where the runner's threads do not exist.
        """
        self.options = options
        self.name = name
        self.listeners = Listeners()
        self.clock = clock or SystemClock()
        self._deliver = deliver
        self._reset = reset
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a signal handler that stops us may interrupt elect() of its own thread.
        self._lock = threading.RLock()
        self._awaiting: Await | None = None
        self.candidate_id = new_candidate_id()
        self._election = Election(self.options, self.candidate_id, new_seed())
        self._watch = Diagnostics(self.name, self.options.ttl)
        self._holder: tuple[str, int] = ("", 0)
        self._holder_seen_at = 0.0
        self._last_error: tuple[str, float] = ("", 0.0)

    def _after_fork(self) -> None:
        self._begin()
        self._reset()

    # Views

    @property
    def lease(self) -> Lease | None:
        """The lease, if this process leads now."""
        lease = self._election.lease
        if lease is None or self._pid != os.getpid() or not self.clock.before(lease.deadline):
            return None
        return lease

    @property
    def state(self) -> State:
        """What the candidate is."""
        return self._election.state

    def standing(self) -> Status:
        """Return how the election stands as seen from here. Does no IO."""
        with self._lock:
            now, error = self.clock.now(), self._last_error
            lease, sight = self.lease, self._election.sight
            if lease is not None:
                since = now.wall - now.longest_since(lease.since)
                left = lease.remaining(now)
                return Status(
                    Role.LEADER, self.candidate_id, lease.fencing_token, since, left, *error
                )
            if self.state in (State.IDLE, State.CLOSED):
                return Status(Role.AWAY, "", 0, 0.0, 0.0, *error)
            record, left_at_most = sight.record, sight.takeover_in(now)
            if left_at_most is None:
                # Its observation begins once replicas confirm a write.
                left_at_most = sight.longest_ttl
            mine = record is None or record.holder in ("", self.candidate_id)
            if record is None or mine or record.resigned or left_at_most <= 0:
                return Status(Role.LEADERLESS, "", 0, 0.0, 0.0, *error)
            return Status(
                Role.STANDBY,
                record.holder,
                record.token,
                self._holder_seen_at,
                left_at_most,
                *error,
            )

    # Steps

    def start(self) -> None:
        """Take part."""
        with self._lock:
            if self._election.state is State.CLOSED:
                raise LifecycleError(f"{self.name!r} was shut down; make a new leader object")
            if self._election.state in (State.STANDBY, State.LEADING):
                raise LifecycleError(f"elect() was called already for {self.name!r}")
            self._election.start(self.clock.now())
            self._publish()

    def stop(self, reason: DemotionReason) -> Await | None:
        """Take part no longer; return the blocking read that is to be broken off, if any."""
        with self._lock:
            awaiting, self._awaiting = self._awaiting, None
            self._election.stop(self.clock.now(), reason)
            self._publish()
            return awaiting

    def close(self) -> None:
        """End for good."""
        with self._lock:
            if self._election.state not in (State.IDLE, State.RESIGNING, State.CLOSED):
                self._election.stop(self.clock.now(), DemotionReason.SHUTDOWN)
            self._election.close()
            self._publish()

    def tick(self) -> float | None:
        """Notice a lease that is over; return the seconds until the next such moment."""
        with self._lock:
            now = self.clock.now()
            self._election.tick(now)
            self._publish()
            lease = self._election.lease
            return None if lease is None else lease.remaining(now)

    def poll(self) -> Request | None:
        """Return what to send now."""
        with self._lock:
            now = self.clock.now()
            self._watch.moment(now)
            request = self._election.poll(now)
            self._awaiting = request if isinstance(request, Await) else None
            self._publish()
            return request

    def pause(self) -> float | None:
        """Return the seconds until the next poll; ``None``: only after a verb."""
        with self._lock:
            return self._election.pause(self.clock.now())

    def receive(self, request: Request, reply: Reply) -> None:
        """Take in a reply."""
        with self._lock:
            self._awaiting = None
            self._election.receive(request, reply, self._after(request))
            self._publish()

    def failed(self, request: Request, error: Exception) -> None:
        """Take in a failure."""
        with self._lock:
            self._awaiting = None
            self._election.failed(request, error, self._after(request))
            self._publish()

    def _after(self, request: Request) -> Instant:
        now = self.clock.now()
        self._watch.moment(now)
        if not isinstance(request, Await):
            self._watch.round_trip(now.shortest_since(request.sent_at))
        return now

    def _publish(self) -> None:
        events = self._election.events()
        record = self._election.sight.record
        if record is not None and (record.holder, record.token) != self._holder:
            self._holder = (record.holder, record.token)
            self._holder_seen_at = self.clock.now().wall
        for event in events:
            if isinstance(event, StoreFailed):
                self._last_error = (str(event.error), self.clock.now().wall)
        if events:
            self._deliver(events)

    # Listeners

    def calls(
        self, event: Event, *, said: bool = False
    ) -> list[tuple[Listener, Event | Exception]]:
        """Return which listeners to call with what.

        Args:
            event: What happened.
            said: Whether a failure is in the log, and need not be said for want of listeners.
        """
        if isinstance(event, Elected):
            return [(listener, event) for listener in self.listeners.take("elected")]
        if isinstance(event, Demoted):
            return [(listener, event) for listener in self.listeners.take("demoted")]
        if isinstance(event, StoreFailed):
            listeners = self.listeners.take("error")
            if not (listeners or said) and event.failures == 1:
                logger.warning("Election %r: %s; trying again", self.name, event.error)
            return [(listener, event.error) for listener in listeners]
        return []


def _reset_after_fork() -> None:
    # The child is no candidate: its parent's lease, id and threads are not its own.
    for candidate in list(_all):
        candidate._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
