"""The signals of a beat: who leads, what was published, what was missed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery_safe_leader._core.events import Demoted, Elected
from celery_safe_leader._dispatch.run_events import (
    LeaderEnded,
    LeaderStarted,
    RunEvents,
    RunsMissed,
    RunsPublished,
)
from celery_safe_leader._schedules.moments import to_datetime
from celery_safe_leader.signals import (
    leader_demoted,
    leader_elected,
    run_missed,
    run_published,
)

__all__ = ["run_events"]

_SIGNALS = {
    Elected: leader_elected,
    Demoted: leader_demoted,
    RunsPublished: run_published,
    RunsMissed: run_missed,
}


def run_events(election: Callable[[], str], candidate_id: Callable[[], str]) -> RunEvents:
    """Return what tells the receivers of this process's signals.

    Args:
        election: Returns the name of the election that the beat takes part in.
        candidate_id: Returns that of the beat, or of its worker.
    """
    sender = f"beat@{socket.gethostname()}"

    def tell(event: Any) -> None:
        whose = {
            "sender": sender,
            "election": election(),
            "candidate_id": candidate_id(),
            "fencing_token": event.token,
        }
        match event:
            case LeaderStarted():
                leader_elected.send(**whose)
            case LeaderEnded():
                leader_demoted.send(**whose, reason=event.reason)
            case RunsMissed():
                run_missed.send(**whose, entry=event.entry, count=event.count, reason=event.reason)
            case RunsPublished():
                for claim in event.claims:
                    run_published.send(
                        **whose,
                        entry=claim.entry,
                        task_id=claim.occurrence,
                        due=_date(claim.moment),
                        first=_date(claim.first),
                        way=event.way,
                    )

    return RunEvents(tell, _has_receivers)


def _has_receivers(kind: type) -> bool:
    return bool(_SIGNALS[kind].receivers)


def _date(moment_us: int) -> datetime | None:
    return to_datetime(moment_us) if moment_us else None
