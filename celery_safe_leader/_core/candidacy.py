"""What a candidate is and how it changes, apart from when: its state, lease, events and plan."""

from __future__ import annotations

from celery_safe_leader._core.events import Demoted, DemotionReason, Event, Lease, StoreFailed
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Request
from celery_safe_leader._core.observation import Observation
from celery_safe_leader._core.options import Options
from celery_safe_leader._core.requests import Requests
from celery_safe_leader._core.state import Move, State, next_state
from celery_safe_leader.errors import StoreRefusedError

__all__ = ["Candidacy"]


class Candidacy:
    """One candidate's own affairs. Only this class changes state and lease."""

    def __init__(self, options: Options, candidate_id: str, seed: str) -> None:
        """Make an idle candidate.

        Args:
            options: What it was told.
            candidate_id: Unique for each start of each process.
            seed: Random text, unique likewise; makes the names of renewals unique.
        """
        self.options = options
        self.candidate_id = candidate_id
        self.sight = Observation(options)
        self._drafts = Requests(options, candidate_id, seed, self.sight)
        self._state = State.IDLE
        self._lease: Lease | None = None
        self._events: list[Event] = []
        self._inflight: Request | None = None
        self._next: tuple[Instant, float] | None = None
        self._failures = 0
        self._look = True
        """Whether a standby has to look at the record before it may sleep."""
        self._restore = ""
        """Version of the vacancy that the leader has to take back, if Redis lost its record."""
        self._giving_up: Lease | None = None
        """What is left to be resigned."""

    # What it is

    @property
    def state(self) -> State:
        """What the candidate is at this moment; ``LEADING`` may be over by its deadline."""
        return self._state

    @property
    def lease(self) -> Lease | None:
        """The present lease, if any: a snapshot that any thread may read."""
        return self._lease

    def is_leader(self, now: Instant) -> bool:
        """Tell whether this candidate leads at ``now``. From any thread."""
        lease = self._lease
        return lease is not None and lease.valid(now)

    def events(self) -> list[Event]:
        """Return what happened since the last call, oldest first."""
        happened, self._events = self._events, []
        return happened

    def pause(self, now: Instant) -> float | None:
        """Return the seconds until the next ``poll()``; ``None``: only after a verb."""
        if self._inflight is not None or self._next is None:
            return None
        base, delay = self._next
        return max(0.0, delay - now.longest_since(base))

    # Changes

    def _move(self, move: Move) -> None:
        self._state = next_state(self._state, move)

    def _end_tenure(
        self, lease: Lease, move: Move, reason: DemotionReason, holder: str = ""
    ) -> None:
        # The lease first: from here on other threads see that we do not lead.
        self._lease = None
        self._restore = ""
        self._look = True
        self._move(move)
        self._events.append(Demoted(lease.fencing_token, reason, holder))

    def _settle(self) -> None:
        if self._state is State.RESIGNING:
            self._move(Move.SETTLE)
            self._giving_up = self._next = None

    def _unconfirmed(self, now: Instant) -> None:
        wanted = self.options.wait_replicas
        detail = f"fewer than {wanted} replicas confirmed the write (wait_replicas={wanted})"
        self._retry(StoreRefusedError("election", detail), now)

    def _retry(self, error: Exception, now: Instant) -> None:
        self._failures += 1
        self._events.append(StoreFailed(error, self._failures))
        longest = min(self.options.wait, self.options.renew_interval)
        doubled = 2.0 ** min(self._failures - 1, 10)
        self._plan(now, min(longest, self.options.ttl / 50 * doubled))

    def _plan(self, base: Instant, delay: float = 0.0) -> None:
        self._next = (base, delay)
