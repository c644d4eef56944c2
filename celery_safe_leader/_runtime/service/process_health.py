"""What a process says of itself to whoever asks from outside: alive, ready, leading."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from celery_safe_leader._core.status import Role
from celery_safe_leader._runtime.service.loop_watch import LoopWatch
from celery_safe_leader._runtime.views import LeaderViews

__all__ = ["HeldLease", "ProcessHealth"]


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease that lasts."""

    token: int
    remaining: float
    """Seconds."""


@dataclass
class ProcessHealth:
    """Read from any thread; does no IO."""

    role: str
    """``beat`` or ``worker``."""
    election: str
    longest_silence: float
    """Seconds without an answer of Redis after which a candidate is not ready: its ttl, or two
    pauses of a standby if they are longer."""
    loop: LoopWatch
    candidate: Callable[[], LeaderViews | None] = lambda: None
    """Returns the candidate; ``None`` before it takes part, or if it never will."""
    why_stuck: Callable[[], str] = lambda: ""
    """Returns why no user code can be called any more, though the loop turns; or nothing."""
    host: str = field(default_factory=socket.gethostname)

    def why_dead(self) -> str:
        """Return why this process needs a restart; nothing if it does not."""
        if not self.loop.is_turning():
            return f"its loop has not turned for {self.loop.silent_for:.0f} s"
        return self.why_stuck()

    def why_unready(self) -> str:
        """Return why this process cannot take over; nothing if it can, or leads."""
        candidate = self.candidate()
        if candidate is None or not candidate.active:
            return "it takes no part in the election"
        silent = candidate.silent_for
        if silent is None:
            return "Redis has not answered yet"
        if silent > self.longest_silence:
            return f"Redis has not answered for {silent:.0f} s"
        return ""

    def leading(self) -> HeldLease | None:
        """Return the lease, if this process leads now, by its own clock."""
        candidate = self.candidate()
        # One reading of both: a token must not be shown with another tenure's time.
        status = None if candidate is None else candidate.standing
        if status is None or status.role is not Role.LEADER or status.remaining <= 0:
            return None
        return HeldLease(status.fencing_token, status.remaining)

    def status(self) -> str:
        """Return one line for people."""
        candidate = self.candidate()
        if candidate is None or not candidate.active:
            return f"{self.election}: takes no part in the election"
        standing = candidate.standing
        if standing.role is Role.LEADER:
            return f"{self.election}: leads (token {standing.fencing_token})"
        if standing.role is Role.STANDBY:
            return f"{self.election}: stands by, {standing.leader} leads"
        return f"{self.election}: stands by, nobody leads as far as is known"

    def identity(self) -> dict[str, Any]:
        """Return what every answer names."""
        candidate = self.candidate()
        return {
            "host": self.host,
            "pid": os.getpid(),
            "role": self.role,
            "election": self.election,
            "candidate": None if candidate is None else candidate.candidate_id,
        }
