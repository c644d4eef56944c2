"""What a worker says of its election: log lines and signals. Celery events go by the loop."""

from __future__ import annotations

import logging
import time

from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    Event,
    HolderSeen,
    StoreFailed,
)
from celery_safe_leader._loggers import worker_logger as logger
from celery_safe_leader.signals import leader_demoted, leader_elected

__all__ = ["Announcer"]

_REPEAT_AFTER = 60.0
"""Seconds after which an error that goes on is said again."""


class Announcer:
    """Tells people and receivers of one worker's election. Call it on one thread."""

    def __init__(self, worker: str, election: str, server: str, candidate_id: str) -> None:
        """Remember what is named.

        Args:
            worker: Node name, the sender of the signals.
            election: Name of the election.
            server: Without secrets.
            candidate_id: Of this worker.
        """
        self._worker = worker
        self._election = election
        self._server = server
        self._candidate_id = candidate_id
        self._silent_until = 0.0
        self._failing = False

    def __call__(self, event: Event) -> None:
        """Log an event, and send the signal if there is one."""
        if isinstance(event, StoreFailed):
            self._failed(event)
            return
        if self._failing and isinstance(event, (Elected, HolderSeen)):
            self._failing, self._silent_until = False, 0.0
            logger.info("Redis at %s answers again", self._server)
        if isinstance(event, Elected):
            self._elected(event)
        elif isinstance(event, Demoted):
            self._demoted(event)
        else:
            self._seen(event)

    def _elected(self, event: Elected) -> None:
        logger.info(
            "Elected leader of %s: this worker runs the leader-only tasks now (token %d)",
            self._election,
            event.fencing_token,
        )
        leader_elected.send(
            sender=self._worker,
            election=self._election,
            candidate_id=self._candidate_id,
            fencing_token=event.fencing_token,
        )

    def _demoted(self, event: Demoted) -> None:
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
        leader_demoted.send(
            sender=self._worker,
            election=self._election,
            candidate_id=self._candidate_id,
            fencing_token=event.fencing_token,
            reason=event.reason.value,
        )

    def _seen(self, event: HolderSeen) -> None:
        if event.holder == self._candidate_id or event.resigned:
            return
        logger.info(
            "Standing by for %s: %s (taken over if it is silent for %.1f s)",
            self._election,
            f"{event.holder} leads" if event.holder else "Redis knows of no leader",
            event.takeover_after,
        )

    def _failed(self, event: StoreFailed) -> None:
        now = time.monotonic()
        self._failing = True
        if now < self._silent_until:
            return
        self._silent_until = now + _REPEAT_AFTER
        logger.error(
            "Election %s: %s. Redis at %s; trying again (%d in a row so far)",
            self._election,
            event.error,
            self._server,
            event.failures,
        )
