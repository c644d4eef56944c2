"""What both façades show, and their listeners."""

from __future__ import annotations

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.state import State
from celery_safe_leader._core.status import Status
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.listeners import Listener

__all__ = ["LeaderViews"]


class LeaderViews:
    """Read-only views of a candidate, and its listeners. Nothing here does IO."""

    def __init__(self, candidate: Candidate) -> None:
        """Show a candidate."""
        self._candidate = candidate

    @property
    def key(self) -> str:
        """Name of the election."""
        return self._candidate.name

    @property
    def candidate_id(self) -> str:
        """``host:pid:random``: unique for each start, shown in Redis while it leads."""
        return self._candidate.candidate_id

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now: local, without IO, true only before the deadline."""
        return self._candidate.lease is not None

    @property
    def lease(self) -> Lease | None:
        """The lease, if this process leads now: a snapshot, which a renewal does not prolong."""
        return self._candidate.lease

    @property
    def fencing_token(self) -> int | None:
        """The token of the present tenure; ``None`` while this process does not lead.

        Give it along with whatever the leader writes, so that the store can refuse an older one.
        """
        lease = self._candidate.lease
        return None if lease is None else lease.fencing_token

    @property
    def remaining(self) -> float:
        """Seconds that the lease lasts at least, if it is not renewed; 0 without one."""
        lease = self._candidate.lease
        return 0.0 if lease is None else lease.remaining(self._candidate.clock.now())

    @property
    def active(self) -> bool:
        """Whether it takes part in the election, leading or not."""
        return self._candidate.state in (State.STANDBY, State.LEADING)

    @property
    def standing(self) -> Status:
        """How the election stands, as seen from here: a snapshot for people and monitors."""
        return self._candidate.standing()

    def on(self, event: str, listener: Listener) -> None:
        """Call ``listener`` at each event.

        Args:
            event: ``elected`` (with an ``Elected``), ``demoted`` (with a ``Demoted``) or ``error``
                (with the exception; the election goes on).
            listener: A function of one argument. Runs apart from the renewals, so that it may
                take its time; what it raises is logged.

        Raises:
            ConfigurationError: There is no such event.
        """
        self._candidate.listeners.add(event, listener)

    def once(self, event: str, listener: Listener) -> None:
        """Call ``listener`` at the next event only."""
        self._candidate.listeners.add(event, listener, once=True)

    def off(self, event: str, listener: Listener) -> None:
        """Call ``listener`` no longer."""
        self._candidate.listeners.remove(event, listener)

    def remove_all_listeners(self, event: str | None = None) -> None:
        """Forget all listeners of an event, or of all events."""
        self._candidate.listeners.clear(event)

    def __repr__(self) -> str:
        """Show election, id and state; no address, no secret."""
        state = self._candidate.state.value
        return f"<{type(self).__name__} {self.key!r} {self.candidate_id} {state}>"
