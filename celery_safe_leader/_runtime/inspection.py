"""The answer to ``celery inspect leader``: what one node knows of the election, as plain data."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from celery_safe_leader._core.status import Role, Status
from celery_safe_leader._runtime.views import LeaderViews

__all__ = ["HELP", "candidate_answer", "nonmember_answer"]

HELP = "Who leads, as this node sees it: role, leader, token, since when, and the last error."


def candidate_answer(
    leader: LeaderViews, last_error: tuple[str, float] = ("", 0.0)
) -> dict[str, Any]:
    """Return the answer of a candidate. Does no IO, shows no secret. From any thread.

    Args:
        leader: The candidate.
        last_error: An error of what the node does as a leader, and when by the wall clock; the
            newer one of this and the candidate's own is shown.
    """
    status = leader.standing
    error, at = max(last_error, (status.error, status.error_at), key=lambda each: each[1])
    return {
        "election": leader.key,
        "role": status.role.value,
        "candidate_id": leader.candidate_id,
        **_leader(status),
        "last_error": {"error": error, "at": _text(at)} if error else None,
    }


def nonmember_answer(election: str) -> dict[str, Any]:
    """Return the answer of a node that does not take part, and so does not know who leads."""
    return {
        "election": election,
        "role": Role.AWAY.value,
        "candidate_id": None,
        **_leader(Status(Role.AWAY)),
        "last_error": None,
    }


def _leader(status: Status) -> dict[str, Any]:
    known = bool(status.leader)
    return {
        "leader": status.leader if known else None,
        "fencing_token": status.fencing_token if known else None,
        "since": _text(status.since) if known else None,
        "lease_remaining": round(status.remaining, 3) if known else None,
    }


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
