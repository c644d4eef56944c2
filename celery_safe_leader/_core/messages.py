"""Requests to the store and its replies: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_safe_leader._core.instant import Instant

__all__ = [
    "Answer",
    "Await",
    "Campaign",
    "Observe",
    "Record",
    "Renew",
    "Reply",
    "Request",
    "Resign",
    "Status",
    "Woken",
]

Status = str
"""What a script did: ``seen``, ``accepted``, ``rejected``, ``vacant`` or ``resigned``."""


@dataclass(frozen=True, slots=True)
class Request:
    """Base of all requests."""

    sent_at: Instant
    """Before it was sent, and before connecting, if that had to be done."""


@dataclass(frozen=True, slots=True)
class Observe(Request):
    """Read the record; where there is none, write a vacancy first."""

    nonce: str
    ttl: float
    """Seconds: the longest ttl that we know of, carried by a vacancy."""
    token: int
    """The highest fencing token that we know of, carried by a vacancy."""
    confirm: bool = False
    """Also write a witness, to be confirmed by replicas."""


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
    """Keep ``token``: the leader takes back a record that Redis lost, it is no new tenure."""


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
    """Give the record up and wake standbys."""

    candidate_id: str
    token: int
    nonce: str
    reason: str


@dataclass(frozen=True, slots=True)
class Await(Request):
    """Sleep until a leader resigns, ``timeout`` seconds at most."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Record:
    """The record as a server has it now."""

    version: str
    """Opaque: server's epoch, record's epoch, token, renewal and resigned in one."""
    epoch: str
    """The server's, at this moment."""
    holder: str
    token: int
    ttl: float
    """Seconds; 0 where the record does not say."""
    resigned: bool
    """Resigned *on this server in its present epoch*: only then it may be taken at once."""
    given_up: bool = False
    """Resigned, and by this answer alone nobody can say where."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Reply to everything but ``Await``."""

    status: Status
    record: Record
    confirmed: bool = True
    """Enough replicas confirmed (always true where none is asked)."""
    problem: str = field(default="", compare=False)
    """What is wrong with the record, for people."""


@dataclass(frozen=True, slots=True)
class Woken:
    """Reply to ``Await``."""

    resigned: bool
    """A leader resigned; false when the time was over."""


Reply = Answer | Woken
