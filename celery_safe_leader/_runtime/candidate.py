"""A candidate in a process: its election, clock and listeners; everything but the waiting.

The thread runner and the asyncio runner both use it.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from celery_safe_leader._core.election import Election
from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    Event,
    HolderSeen,
    Lease,
    StoreFailed,
)
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, LedgerLook, Renew, Reply, Request
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.presence import Presence
from celery_safe_leader._core.state import State
from celery_safe_leader._core.status import Role, Status
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._runtime.clock import Clock, SystemClock, new_candidate_id, new_seed
from celery_safe_leader._runtime.diagnostics import Diagnostics
from celery_safe_leader._runtime.listeners import Listener, Listeners
from celery_safe_leader._runtime.service.counts import ElectionCounts
from celery_safe_leader.errors import LifecycleError, SafeLeaderError

__all__ = ["Candidate"]

_CANCELLED = ConnectionError("cancelled")
"""What a request failed with that nobody waits for any more."""
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
        self.about: Callable[[], Mapping[str, Any]] = dict
        """Returns what else is said of this candidate to people: for any thread, without IO."""
        self._deliver = deliver
        self.counts = ElectionCounts()
        self._reset = reset
        self._make_idle()
        _all.add(self)

    def _make_idle(self) -> None:
        self._pid = os.getpid()
        # Reentrant: a signal handler that stops us may interrupt elect() of its own thread.
        self._lock: Any = threading.RLock()
        self._awaiting: Await | None = None
        self._polled: Request | None = None
        self.candidate_id = new_candidate_id()
        self._election = Election(self.options, self.candidate_id, new_seed())
        self._diagnostics = Diagnostics(self.name, self.options.ttl)
        self._holder: tuple[str, int] = ("", 0)
        self._holder_seen_at = 0.0
        self._last_error: tuple[str, float] = ("", 0.0)
        self._heard: Instant | None = None
        self._failed: tuple[str, Instant] | None = None
        self._joined: Instant | None = None

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
    def look(self) -> LedgerLook | None:
        """What the last renewal of this tenure saw of the ledger, if it looked at it."""
        return self._election.look

    @property
    def silent_for(self) -> float | None:
        """Seconds since Redis last answered; ``None`` if it has not yet."""
        heard = self._heard
        return None if heard is None else max(0.0, self.clock.now().longest_since(heard))

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

    def presence(self) -> tuple[str, str]:
        """Return the candidate's id, and what it says of itself to people. Does no IO."""
        with self._lock:
            now, lease, failed = self.clock.now(), self.lease, self._failed
            joined, me = self._joined or now, self.candidate_id
        said = Presence(
            host=socket.gethostname(),
            pid=self._pid,
            release=_release(),
            ttl=self.options.ttl,
            every=max(self.options.ttl, self.options.wait),
            age=now.shortest_since(joined),
            token=None if lease is None else lease.fencing_token,
            error="" if failed is None else failed[0],
            error_age=0.0 if failed is None else now.shortest_since(failed[1]),
            about=self.about(),
        )
        return me, said.encode()

    def is_locked_here(self) -> bool:
        """Whether the calling thread is in the middle of a step: true in a signal handler only."""
        return bool(self._lock._is_owned())

    # Steps

    def start(self) -> None:
        """Take part."""
        with self._lock:
            if self._election.state is State.CLOSED:
                raise LifecycleError(f"{self.name!r} was shut down; make a new leader object")
            if self._election.state in (State.STANDBY, State.LEADING):
                raise LifecycleError(f"elect() was called already for {self.name!r}")
            self._joined = self.clock.now()
            self._election.start(self._joined)
            self._publish()

    def campaign_later(self, seconds: float) -> None:
        """From now on, campaign so much later than the rules allow, to let others go first."""
        with self._lock:
            self._election.observation.campaign_later = seconds

    def stop(self, reason: DemotionReason, detail: str = "", successor: str = "") -> Await | None:
        """Stop taking part; return the blocking read that has to be interrupted, if any.

        Args:
            reason: For the event.
            detail: For the history, in place of the reason.
            successor: Candidate id of the one that the others are to let go first.
        """
        with self._lock:
            awaiting, self._awaiting = self._awaiting, None
            if self.lease is not None:
                self.counts.resigned(detail)
            self._election.stop(self.clock.now(), reason, detail, successor)
            self._publish()
            return awaiting

    def close(self) -> None:
        """End for good."""
        with self._lock:
            if self._election.state not in (State.IDLE, State.RESIGNING, State.CLOSED):
                self._election.stop(self.clock.now(), DemotionReason.SHUTDOWN)
            self._election.close()
            self._publish()

    def drop(self, request: Request) -> None:
        """Handle a request that was cancelled: it is as good as failed, and no failure to tell."""
        with self._lock:
            self._awaiting = None
            self._election.failed(request, _CANCELLED, self.clock.now())
            self._publish()

    def abandon(self, reason: DemotionReason) -> None:
        """Take no part from now on, and send nothing: nobody is left who would."""
        with self._lock:
            now = self.clock.now()
            self._election.stop(now, reason)
            if self._polled is not None:
                self._election.failed(self._polled, _CANCELLED, now)
            if self._election.state is State.RESIGNING:
                # The lease that was to be resigned runs out by itself.
                self._election.start(now)
                self._election.stop(now, reason)
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
            self._polled = request
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
            self._heard = now = self._after(request)
            self._election.receive(request, reply, now)
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
            round_trip = now.shortest_since(request.sent_at)
            self._diagnostics.note_round_trip(round_trip)
            if isinstance(request, Renew):
                self.counts.renewals.observe(round_trip)
        return now

    def _publish(self) -> None:
        events = [each for each in self._election.events() if not _is_cancellation(each)]
        record = self._election.observation.record
        if record is not None and (record.holder, record.token) != self._holder:
            self._holder = (record.holder, record.token)
            self._holder_seen_at = self.clock.now().wall
        for event in events:
            self.counts.note(event)
            if isinstance(event, StoreFailed):
                now = self.clock.now()
                self._last_error = (str(event.error), now.wall)
                self._failed = (_shown(event.error), now)
        if events:
            self._deliver(events)

    # Listeners

    def has_listeners(self, event: Event) -> bool:
        """Return whether anybody is to be called at this event."""
        name = self._name_of(event)
        return name is not None and self.listeners.has(name)

    def _name_of(self, event: Event) -> str | None:
        """Return the name by which listeners know an event; ``None`` if it is not for them."""
        if isinstance(event, HolderSeen):
            is_other = event.holder not in ("", self.candidate_id)
            return "new_leader" if is_other and not event.resigned else None
        return _NAMES.get(type(event))

    def listener_calls(self, event: Event) -> list[tuple[Listener, Event | Exception]]:
        """Return which listeners to call, each with its argument."""
        name = self._name_of(event)
        if name is None:
            return []
        argument = event.error if isinstance(event, StoreFailed) else event
        return [(listener, argument) for listener in self.listeners.pop_callees(name)]

    def log_unheard(self, event: Event) -> None:
        """Log the first of several failures in a row, of which nobody is told."""
        if isinstance(event, StoreFailed) and event.failures == 1:
            logger.warning("Election %r: %s; trying again", self.name, event.error)


_NAMES: dict[type[Event], str] = {Elected: "elected", Demoted: "demoted", StoreFailed: "error"}


@cache
def _release() -> str:
    """Return the release of this package; empty if it is not installed as one."""
    try:
        return metadata.version("celery-safe-leader")
    except metadata.PackageNotFoundError:
        return ""


def _shown(error: Exception) -> str:
    """Return what others may read of an error: in Redis, more people see it than in a log."""
    if isinstance(error, SafeLeaderError):
        return str(error)
    # Of a client or of code of the user's, such as a credential provider.
    return f"{type(error).__name__}; its message is hidden because it may contain a secret"


def _is_cancellation(event: Event) -> bool:
    return isinstance(event, StoreFailed) and event.error is _CANCELLED


def _reset_after_fork() -> None:
    # The child is not its parent's candidate: it has neither its lease nor its id nor threads.
    for candidate in list(_all):
        candidate._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)
