"""Requests to the store and its replies: plain data."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from celery_safe_leader._core.instant import Instant

__all__ = [
    "Answer",
    "Await",
    "Campaign",
    "Leave",
    "LedgerLook",
    "Observe",
    "Part",
    "Received",
    "Record",
    "Renew",
    "Reply",
    "ReplyStatus",
    "Request",
    "Resign",
    "Woken",
]


class ReplyStatus(enum.Enum):
    """What a script did; the value is the word that it answers with."""

    SEEN = "seen"
    """It read the record."""
    ACCEPTED = "accepted"
    """It wrote the record as asked."""
    REJECTED = "rejected"
    """It wrote nothing: the record is not the one that was meant."""
    VACANT = "vacant"
    """There was no record, and it wrote a vacancy."""
    RESIGNED = "resigned"
    """It marked the record as resigned."""


@dataclass(frozen=True, slots=True)
class Request:
    """Base of all requests."""

    sent_at: Instant
    """A moment before it was sent, and before connecting if that was necessary."""


@dataclass(frozen=True, slots=True)
class Observe(Request):
    """Read the record; if there is none, write a vacancy first."""

    nonce: str
    ttl: float
    """Seconds: the longest ttl that we know of, for a vacancy."""
    token: int
    """The highest fencing token that we know of, for a vacancy."""
    confirm: bool = False
    """Also write the witness key, for replicas to confirm."""


@dataclass(frozen=True, slots=True)
class Campaign(Request):
    """Take the record over if it still has the version that we saw."""

    version: str
    candidate_id: str
    nonce: str
    ttl: float
    """Seconds: ours."""
    longest_ttl: float
    """Seconds: the longest that we know of, for a vacancy."""
    token: int
    """The highest fencing token that we know of; the new one is above."""
    keep: bool = False
    """Keep ``token``: the leader takes back a record that Redis lost; this is not a new tenure."""


@dataclass(frozen=True, slots=True)
class Renew(Request):
    """Keep the record."""

    candidate_id: str
    token: int
    nonce: str
    ttl: float
    longest_ttl: float


@dataclass(frozen=True, slots=True)
class Resign(Request):
    """Resign the record and wake standbys."""

    candidate_id: str
    token: int
    nonce: str
    reason: str
    successor: str = ""
    """Candidate id of the one that the others let go first; empty for nobody."""


@dataclass(frozen=True, slots=True)
class Await(Request):
    """Sleep until a leader resigns, but at most ``timeout`` seconds."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Leave(Request):
    """Take back what the candidate said of itself, since it takes part no more. Decides nothing."""


@dataclass(frozen=True, slots=True)
class Record:
    """The record as a server has it now."""

    version: str
    """Opaque: the server's epoch, the record's epoch, token, renewal and resigned in one."""
    epoch: str
    """The server's, at this moment."""
    holder: str
    token: int
    ttl: float
    """Seconds; 0 if the record does not say."""
    resigned: bool
    """Resigned *on this server in its present epoch*; only then may it be taken at once."""
    given_up: bool = False
    """Resigned, on a server that cannot be told from this answer alone."""
    successor: str = ""
    """Candidate id of the one in whose favour it was resigned; empty for nobody."""


@dataclass(frozen=True, slots=True)
class LedgerLook:
    """What a renewal of a beat read along with the record. The election decides nothing by it."""

    sent_at: Instant
    """A moment before the renewal was sent."""
    runs: bytes
    """Sentinel of the ledger's hash of runs: empty if there is none, at most 512 bytes, and
    something else than a sentinel if it cannot be read."""
    pending: bytes
    """The same of its hash of claims."""
    server_us: int
    """Redis's clock at that moment, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply to everything but ``Await``."""

    status: ReplyStatus
    record: Record
    confirmed: bool = True
    """Whether enough replicas confirmed; true if none were asked."""
    look: LedgerLook | None = None
    """``None`` if the request did not look at the ledger."""


@dataclass(frozen=True, slots=True)
class Woken:
    """Reply to ``Await``."""

    resigned: bool
    """Whether a leader resigned; false if the time ran out."""


Reply = Answer | Woken


class Part(enum.Enum):
    """Which list something was sent to the leader by; the value is the last part of its key."""

    REQUESTS = "ask"
    """What the leader is asked to do."""
    CHANGES = "changes"
    """Notes that a source of entries was edited."""


@dataclass(frozen=True, slots=True)
class Received:
    """One value that was sent to the leader."""

    part: Part
    value: bytes
