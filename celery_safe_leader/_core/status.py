"""The status of an election as one candidate sees it, for people and monitors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["Role", "Status"]


class Role(enum.Enum):
    """What a candidate is, and whether it knows of a leader."""

    LEADER = "leader"
    """It leads."""
    STANDBY = "standby"
    """Another candidate leads, and was seen within its lease."""
    LEADERLESS = "nobody leads"
    """It takes part, and knows of no leader."""
    AWAY = "takes no part"
    """It was not started, or was stopped."""


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot of what is known locally."""

    role: Role
    leader: str = ""
    """Candidate id of the leader; empty if none is known."""
    fencing_token: int = 0
    """Of that leader."""
    since: float = 0.0
    """Unix time in seconds: when it was elected; on a standby, when it was first seen to lead."""
    remaining: float = 0.0
    """Seconds that its lease lasts unless renewed: at least so long on the leader; on a standby at
    most so long, after which the standby takes over."""
    error: str = ""
    """The last error of Redis or of the connection to it; empty if there was none."""
    error_at: float = 0.0
    """Unix time of that error, in seconds."""
