"""What ``SafeLeader`` and ``AsyncSafeLeader`` have in common: views of a candidate, listeners."""

from __future__ import annotations

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.messages import LedgerLook
from celery_safe_leader._core.state import State
from celery_safe_leader._core.status import Status
from celery_safe_leader._runtime.candidate import Candidate
from celery_safe_leader._runtime.listeners import Listener
from celery_safe_leader._runtime.service.counts import ElectionCounts
from celery_safe_leader.errors import LifecycleError

__all__ = ["LeaderViews"]


class LeaderViews:
    """Read-only views of a candidate, and its listeners. Nothing here does IO."""

    def __init__(self, candidate: Candidate) -> None:
        self._candidate = candidate

    @property
    def key(self) -> str:
        """Name of the election."""
        return self._candidate.name

    @property
    def candidate_id(self) -> str:
        """``host:pid:random``: unique for each start; in the record while this candidate leads."""
        return self._candidate.candidate_id

    @property
    def is_leader(self) -> bool:
        """Whether this process leads now. Does no IO; true only before the lease's deadline."""
        return self._candidate.lease is not None

    @property
    def lease(self) -> Lease | None:
        """The lease, if this process leads now: a snapshot, which renewals do not extend."""
        return self._candidate.lease

    @property
    def fencing_token(self) -> int | None:
        """The token of the present tenure; ``None`` while this process does not lead.

        Send it along with whatever the leader writes, so that the store can refuse an older one.
        """
        lease = self._candidate.lease
        return None if lease is None else lease.fencing_token

    @property
    def remaining(self) -> float:
        """Seconds that the lease lasts at least, unless renewed; 0 without one."""
        lease = self._candidate.lease
        return 0.0 if lease is None else lease.remaining(self._candidate.clock.now())

    @property
    def look(self) -> LedgerLook | None:
        """What the last renewal of this tenure saw of the key's ledger; a new object each time.

        ``None`` on a standby, before the first renewal, and if renewals do not look at it: only
        those of beats do, where their user may read it.
        """
        return self._candidate.look

    @property
    def counts(self) -> ElectionCounts:
        """What this candidate has done so far, for monitors."""
        return self._candidate.counts

    @property
    def silent_for(self) -> float | None:
        """Seconds since Redis last answered this candidate; ``None`` if it has not yet."""
        return self._candidate.silent_for

    @property
    def active(self) -> bool:
        """Whether this candidate takes part in the election, leading or not."""
        return self._candidate.state in (State.STANDBY, State.LEADING)

    @property
    def standing(self) -> Status:
        """The status of the election as seen from here: a snapshot for people and monitors."""
        return self._candidate.status()

    def _token_if_leader(self) -> int | None:
        """Return the fencing token, or ``None`` on a standby.

        Raises:
            LifecycleError: This candidate does not take part.
        """
        token = self.fencing_token
        if token is None and self._candidate.state in (State.IDLE, State.CLOSED):
            raise LifecycleError(f"{self.key!r} does not take part in the election: call elect()")
        return token

    def _not_elected(self, timeout: float) -> TimeoutError:
        return TimeoutError(f"not elected leader of {self.key!r} within {timeout:g} s")

    def _handover_timeout(self, timeout: float | None) -> float:
        return self._candidate.options.request_timeout if timeout is None else timeout

    def on(self, event: str, listener: Listener) -> None:
        """Call ``listener`` at each event.

        Args:
            event: ``elected`` (with an ``Elected``), ``demoted`` (with a ``Demoted``),
                ``new_leader`` (with a ``HolderSeen``: somebody else was elected, or is found at
                the start) or ``error`` (with the exception; the election goes on).
            listener: A function of one argument. It may take its time, since renewals run
                elsewhere; what it raises is logged.

        Raises:
            ConfigurationError: There is no such event.
        """
        self._candidate.listeners.add(event, listener)

    def once(self, event: str, listener: Listener) -> None:
        """Call ``listener`` at the next such event only."""
        self._candidate.listeners.add(event, listener, once=True)

    def off(self, event: str, listener: Listener) -> None:
        """No longer call ``listener``."""
        self._candidate.listeners.remove(event, listener)

    def remove_all_listeners(self, event: str | None = None) -> None:
        """Remove all listeners of an event, or of all events."""
        self._candidate.listeners.clear(event)

    def __repr__(self) -> str:
        """Return election, id and state; no address, no secret."""
        state = self._candidate.state.value
        return f"<{type(self).__name__} {self.key!r} {self.candidate_id} {state}>"
