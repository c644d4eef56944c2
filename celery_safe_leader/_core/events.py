"""The events of a candidate: frozen facts.

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
    """Why a tenure ended."""

    RESIGNED = "resigned"
    """``stop()``: leadership was given up and handed over."""
    SHUTDOWN = "shutdown"
    """``shutdown()``: the same, for good."""
    EXPIRED = "expired"
    """No renewal was confirmed in time: Redis, the network or this process was too slow."""
    SUPERSEDED = "superseded"
    """Another candidate holds the record."""
    RECORD_LOST = "record_lost"
    """The record was changed or lost, and could not be restored in time."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead until a deadline. A snapshot: read it from any thread."""

    fencing_token: int
    deadline: Instant
    """From this moment, on whichever clock reaches it first, the lease is over."""
    since: Instant
    """When this tenure began."""

    def valid(self, now: Instant) -> bool:
        """Return whether the lease still lasts."""
        end = self.deadline
        return now.boottime < end.boottime and now.raw < end.raw and now.wall < end.wall

    def remaining(self, now: Instant) -> float:
        """Return the seconds left by the clock that shows the fewest; never below 0."""
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
    """This candidate no longer leads."""

    fencing_token: int
    """That of the ``Elected`` event whose tenure ended."""
    reason: DemotionReason
    holder: str = ""
    """Candidate id of the new holder of the record, if known."""


@dataclass(frozen=True, slots=True)
class HolderSeen:
    """A standby sees a new holder (who may be dead)."""

    holder: str
    """Candidate id; empty for a vacancy."""
    fencing_token: int
    takeover_after: float
    """Seconds of silence after which the record is taken over."""
    resigned: bool


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """Redis did not answer, or refused. The candidate keeps trying."""

    error: Exception
    failures: int
    """How many in a row, this one included."""


Event = Elected | Demoted | HolderSeen | StoreFailed
