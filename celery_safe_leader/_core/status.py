"""How an election stands, as one candidate sees it: for people and monitors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Role", "Status"]


class Role(enum.Enum):
    """What a candidate is, and whether it knows of a leader."""

    LEADER = "leader"
    """It leads."""
    STANDBY = "standby"
    """Another candidate leads, and was heard of within its lease."""
    LEADERLESS = "nobody leads"
    """It takes part, and knows of nobody who leads."""
    AWAY = "takes no part"
    """It is not started, or has been stopped."""


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot. All of it is known locally."""

    role: Role
    leader: str = ""
    """Candidate id of who leads, empty if nobody is known to."""
    fencing_token: int = 0
    """Of that leader."""
    since: float = 0.0
    """Unix time, in seconds: when it was elected; for a standby, when it was first seen to lead."""
    remaining: float = 0.0
    """Seconds that its lease lasts at least, unless renewed; for a standby at most, after which it
    takes over."""
    error: str = ""
    """The last one that Redis or the link to it gave, empty if there was none."""
    error_at: float = 0.0
    """Unix time of it, in seconds."""
