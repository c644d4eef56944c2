"""What a worker reports about its election: log lines and signals, apart from each other.

Celery events are sent by the worker's loop: see ``election_step.py``.
"""

from __future__ import annotations

import logging

from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    HolderSeen,
    StoreFailed,
)
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader._runtime.election_log import ElectionLog
from celery_safe_leader._store.errors import is_login_refused
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.leader import SafeLeader
from celery_safe_leader.signals import leader_demoted, leader_elected

__all__ = ["WorkerElectionLog", "send_signals"]


class WorkerElectionLog(ElectionLog):
    """Logs the events of one worker's candidate. For one thread."""

    def __init__(self, election: str, settings: LeaderSettings, candidate_id: str) -> None:
        super().__init__(
            logger, election, settings.place, candidate_id, "worker", settings.login_setting
        )

    def elected(self, event: Elected) -> None:
        """Log that this worker leads."""
        logger.info(
            "Elected leader of %s: this worker runs the leader-only tasks now (token %d)",
            self._election,
            event.fencing_token,
        )

    def demoted(self, event: Demoted) -> None:
        """Log that this worker no longer leads, and why."""
        planned = event.reason in (DemotionReason.RESIGNED, DemotionReason.SHUTDOWN)
        if planned:
            why = "resigned; a standby takes over at once"
        elif event.reason is DemotionReason.EXPIRED:
            why = f"Redis at {self._server} confirmed no renewal in time"
        else:
            why = f"{event.holder or 'another candidate'} holds the record in Redis"
        logger.log(
            logging.INFO if planned else logging.WARNING,
            "Demoted: no longer leader of %s (token %d): %s",
            self._election,
            event.fencing_token,
            why,
        )

    def standing_by(self, event: HolderSeen) -> None:
        """Log who leads instead, and when this worker may take over."""
        logger.info(
            "Standing by for %s: %s (takes over after %.1f s of silence)",
            self._election,
            f"{event.holder} leads" if event.holder else "Redis knows of no leader",
            event.takeover_after,
        )

    def store_failed(self, event: StoreFailed) -> None:
        """Log what is wrong with Redis."""
        if is_login_refused(event.error):
            self.login_refused(event.error.detail, event.failures)
            return
        logger.error(
            "Election %s: %s. Redis at %s; trying again (%d in a row so far)",
            self._election,
            event.error,
            self._server,
            event.failures,
        )


def send_signals(worker: str, leader: SafeLeader) -> None:
    """Let a candidate send ``leader_elected`` and ``leader_demoted``, as a listener of its own.

    Receivers may block: so they are called where listeners are, and nothing else is done there.

    Args:
        worker: The node name, which is the sender.
        leader: The worker's candidate.
    """
    fields = {"sender": worker, "election": leader.key, "candidate_id": leader.candidate_id}

    def elected(event: Elected) -> None:
        leader_elected.send(**fields, fencing_token=event.fencing_token)

    def demoted(event: Demoted) -> None:
        reason = event.reason.value
        leader_demoted.send(**fields, fencing_token=event.fencing_token, reason=reason)

    leader.on("elected", elected)
    leader.on("demoted", demoted)
