"""The answer to ``celery inspect leader``: what one candidate knows, as plain data."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from celery_safe_leader._core.status import Role, Status
from celery_safe_leader._runtime.views import LeaderViews

__all__ = ["HELP", "answer_of", "bystander"]

HELP = "Who leads, as this node sees it: role, leader, token, since when, and the last error."


def answer_of(leader: LeaderViews) -> dict[str, Any]:
    """Describe a candidate. Local, without IO, and without secrets. From any thread."""
    standing = leader.standing
    return {
        "election": leader.key,
        "role": standing.role.value,
        "candidate_id": leader.candidate_id,
        **_leader(standing),
        "last_error": (
            {"error": standing.error, "at": _text(standing.error_at)} if standing.error else None
        ),
    }


def bystander(election: str) -> dict[str, Any]:
    """Describe a node that takes no part, and so knows nothing of who leads."""
    return {
        "election": election,
        "role": Role.AWAY.value,
        "candidate_id": None,
        **_leader(Status(Role.AWAY)),
        "last_error": None,
    }


def _leader(standing: Status) -> dict[str, Any]:
    known = bool(standing.leader)
    return {
        "leader": standing.leader if known else None,
        "fencing_token": standing.fencing_token if known else None,
        "since": _text(standing.since) if known else None,
        "lease_remaining": round(standing.remaining, 3) if known else None,
    }


def _text(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds")
