"""What a candidate tells: frozen facts.

``Elected`` and ``Demoted`` come in pairs: never two of one kind in a row, and a ``Demoted`` has
the token of its ``Elected``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from celery_safe_leader._core.instant import Instant

__all__ = [
    "Demoted",
    "DemotionReason",
    "Elected",
    "Event",
    "HolderSeen",
    "Lease",
    "StoreFailed",
]


class DemotionReason(enum.Enum):
    """Why a leadership ended."""

    RESIGNED = "resigned"
    """``stop()``: given up and handed over."""
    SHUTDOWN = "shutdown"
    """``shutdown()``: given up for good and handed over."""
    EXPIRED = "expired"
    """No renewal was confirmed in time: Redis, the link or this process was too slow."""
    SUPERSEDED = "superseded"
    """Another candidate holds the record."""
    RECORD_LOST = "record_lost"
    """The record was changed or lost in a way that could not be repaired in time."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead until a deadline. A snapshot: read it from any thread."""

    fencing_token: int
    deadline: Instant
    """From this moment on, on whichever clock reaches it first, the lease is over."""
    since: Instant
    """When this tenure began."""

    def valid(self, now: Instant) -> bool:
        """Tell whether the lease is still good."""
        end = self.deadline
        return now.boottime < end.boottime and now.raw < end.raw and now.wall < end.wall

    def remaining(self, now: Instant) -> float:
        """Return the seconds left, by the clock that says least; never below 0."""
        return max(0.0, -now.longest_since(self.deadline))


@dataclass(frozen=True, slots=True)
class Elected:
    """This candidate leads from now on."""

    fencing_token: int
    """Higher than that of every earlier leader of this election."""
    lease_deadline: Instant
    """Until when, unless renewed."""


@dataclass(frozen=True, slots=True)
class Demoted:
    """This candidate leads no longer."""

    fencing_token: int
    """That of the ``Elected`` which this ends."""
    reason: DemotionReason
    holder: str = ""
    """Candidate id of who holds the record instead, where that is known."""


@dataclass(frozen=True, slots=True)
class HolderSeen:
    """A standby sees another holder than before (who may be dead)."""

    holder: str
    """Candidate id, empty while the record names nobody."""
    fencing_token: int
    takeover_after: float
    """Seconds after which the record is taken over if its holder stays silent."""
    resigned: bool


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """Redis did not answer, or refused. The candidate goes on trying."""

    error: Exception
    failures: int
    """How many in a row, this one included."""


Event = Elected | Demoted | HolderSeen | StoreFailed
