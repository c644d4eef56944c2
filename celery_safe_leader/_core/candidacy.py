"""What a candidate is and holds: its state, its lease, and what is left to be resigned."""

from __future__ import annotations

from celery_safe_leader._core.events import Demoted, DemotionReason, Elected, Lease
from celery_safe_leader._core.state import Move, State, next_state

__all__ = ["Candidacy"]


class Candidacy:
    """A candidate's state and its tenure.

    Only this class changes state and lease. It decides nothing: ``Election`` says what happens
    and when.
    """

    def __init__(self) -> None:
        self._state = State.IDLE
        self._lease: Lease | None = None
        self.vacancy = ""
        """Version of the vacancy that the leader has to take back, if Redis lost its record."""
        self.to_resign: Lease | None = None
        """The lease that was given up, until its resignation is settled."""
        self.resign_attempts = 0
        """How often that was tried."""

    @property
    def state(self) -> State:
        """What the candidate is at this moment; ``LEADING`` may be over by its deadline."""
        return self._state

    @property
    def lease(self) -> Lease | None:
        """The present lease, if any: a snapshot that any thread may read."""
        return self._lease

    def move(self, move: Move) -> None:
        """Change the state.

        Raises:
            LifecycleError: The present state does not allow it; nothing has changed.
        """
        self._state = next_state(self._state, move)

    def hold(self, lease: Lease) -> Elected | None:
        """Hold a lease from now on, and return the event if a tenure begins with it."""
        self.vacancy = ""
        self._lease = lease
        if self._state is not State.STANDBY:
            return None
        self.move(Move.WIN)
        return Elected(lease.fencing_token, lease.deadline)

    def end(self, lease: Lease, move: Move, reason: DemotionReason, holder: str = "") -> Demoted:
        """End the tenure of the lease that is held, and return the event."""
        # The lease first: from here on other threads see that we do not lead.
        self._lease = None
        self.vacancy = ""
        self.move(move)
        return Demoted(lease.fencing_token, reason, holder)

    def resign_later(self, lease: Lease) -> None:
        """Remember a lease whose resignation has to be sent."""
        self.to_resign, self.resign_attempts = lease, 0
