"""A candidate in a process: its election, clock and listeners; everything but the waiting.

The thread runner and the asyncio runner both use it.
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
    """Drives one election. Its views are safe from any thread; its steps are for a runner."""

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
            options: ttl, wait and what else it was configured with.
            name: Of the election, for logs and errors.
            deliver: Called with new events, in order, under the candidate's lock; must not block.
            clock: Used instead of the system's.
            reset: Called in a forked child, which does not have the runner's threads.
        """
        self.options = options
        self.name = name
        self.listeners = Listeners()
        self.clock = clock or SystemClock()
        self._deliver = deliver
        self._reset = reset
        self._make_idle()
        _all.add(self)

    def _make_idle(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a signal handler that stops us may interrupt elect() of its own thread.
        self._lock = threading.RLock()
        self._awaiting: Await | None = None
        self.candidate_id = new_candidate_id()
        self._election = Election(self.options, self.candidate_id, new_seed())
        self._diagnostics = Diagnostics(self.name, self.options.ttl)
        self._holder: tuple[str, int] = ("", 0)
        self._holder_seen_at = 0.0
        self._last_error: tuple[str, float] = ("", 0.0)

    def _after_fork(self) -> None:
        self._make_idle()
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

    def status(self) -> Status:
        """Return the status of the election as seen from here. Does no IO."""
        with self._lock:
            now, error = self.clock.now(), self._last_error
            lease, observation = self.lease, self._election.observation
            if lease is not None:
                since = now.wall - now.longest_since(lease.since)
                left = lease.remaining(now)
                return Status(
                    Role.LEADER, self.candidate_id, lease.fencing_token, since, left, *error
                )
            if self.state in (State.IDLE, State.CLOSED):
                return Status(Role.AWAY, "", 0, 0.0, 0.0, *error)
            record, left_at_most = observation.record, observation.takeover_in(now)
            if left_at_most is None:
                # The observation begins once replicas confirm a write.
                left_at_most = observation.longest_ttl
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
        """Stop taking part; return the blocking read that has to be interrupted, if any."""
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
        """Notice the end of the lease; return the seconds until then, ``None`` without one."""
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
            self._diagnostics.note_moment(now)
            request = self._election.poll(now)
            self._awaiting = request if isinstance(request, Await) else None
            self._publish()
            return request

    def pause(self) -> float | None:
        """Return the seconds until the next poll; ``None``: only after a verb."""
        with self._lock:
            return self._election.pause(self.clock.now())

    def receive(self, request: Request, reply: Reply) -> None:
        """Handle a reply."""
        with self._lock:
            self._awaiting = None
            self._election.receive(request, reply, self._after(request))
            self._publish()

    def failed(self, request: Request, error: Exception) -> None:
        """Handle a request without a usable reply."""
        with self._lock:
            self._awaiting = None
            self._election.failed(request, error, self._after(request))
            self._publish()

    def _after(self, request: Request) -> Instant:
        now = self.clock.now()
        self._diagnostics.note_moment(now)
        if not isinstance(request, Await):
            self._diagnostics.note_round_trip(now.shortest_since(request.sent_at))
        return now

    def _publish(self) -> None:
        events = self._election.events()
        record = self._election.observation.record
        if record is not None and (record.holder, record.token) != self._holder:
            self._holder = (record.holder, record.token)
            self._holder_seen_at = self.clock.now().wall
        for event in events:
            if isinstance(event, StoreFailed):
                self._last_error = (str(event.error), self.clock.now().wall)
        if events:
            self._deliver(events)

    # Listeners

    def listener_calls(
        self, event: Event, *, logged: bool = False
    ) -> list[tuple[Listener, Event | Exception]]:
        """Return which listeners to call, each with its argument.

        Args:
            event: What happened.
            logged: Whether failures are logged already; else they are if they have no listener.
        """
        if isinstance(event, Elected):
            return [(listener, event) for listener in self.listeners.pop_callees("elected")]
        if isinstance(event, Demoted):
            return [(listener, event) for listener in self.listeners.pop_callees("demoted")]
        if isinstance(event, StoreFailed):
            listeners = self.listeners.pop_callees("error")
            if not (listeners or logged) and event.failures == 1:
                logger.warning("Election %r: %s; trying again", self.name, event.error)
            return [(listener, event.error) for listener in listeners]
        return []


def _reset_after_fork() -> None:
    # The child is not its parent's candidate: it has neither its lease nor its id nor threads.
    for candidate in list(_all):
        candidate._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
