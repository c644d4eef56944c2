"""What a beat says of its election: one line for each transition, to be read at night."""

from __future__ import annotations

import time

from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    Event,
    HolderSeen,
    StoreFailed,
)
from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["Reporter"]

_REPEAT_AFTER = 60.0
"""Seconds after which an error that goes on is said again."""


class Reporter:
    """Turns events of one candidate into log lines. Called on one thread."""

    def __init__(self, election: str, server: str, ttl: float, candidate_id: str) -> None:
        """Remember what the lines name; ``server`` is without secrets."""
        self._election = election
        self._server = server
        self._ttl = ttl
        self._candidate_id = candidate_id
        self._silent_until = 0.0
        self._failing = False

    def __call__(self, event: Event) -> None:
        """Log an event."""
        if isinstance(event, StoreFailed):
            self._failed(event)
            return
        if self._failing and isinstance(event, (Elected, HolderSeen)):
            self._failing, self._silent_until = False, 0.0
            logger.info("Redis at %s answers again", self._server)
        if isinstance(event, Elected):
            logger.info(
                "Elected leader of %s: this beat dispatches now (token %d, ttl %g s)",
                self._election,
                event.fencing_token,
                self._ttl,
            )
        elif isinstance(event, Demoted):
            self._demoted(event)
        else:
            self._seen(event)

    def _demoted(self, event: Demoted) -> None:
        if event.reason in (DemotionReason.RESIGNED, DemotionReason.SHUTDOWN):
            logger.info(
                "Demoted: resigned as leader of %s (token %d); a standby takes over at once",
                self._election,
                event.fencing_token,
            )
        elif event.reason is DemotionReason.EXPIRED:
            logger.warning(
                "Demoted: no longer leader of %s (token %d): Redis at %s confirmed no renewal "
                "within the ttl of %g s. This beat dispatches nothing and stands by. Check Redis, "
                "the link to it, and whether this process was stopped",
                self._election,
                event.fencing_token,
                self._server,
                self._ttl,
            )
        else:
            other = f"{event.holder} leads" if event.holder else "the record in Redis was changed"
            logger.warning(
                "Demoted: no longer leader of %s (token %d): %s. This beat stands by",
                self._election,
                event.fencing_token,
                other,
            )

    def _seen(self, event: HolderSeen) -> None:
        if event.holder == self._candidate_id or event.resigned:
            return
        if event.holder:
            logger.info(
                "Standing by for %s: %s leads (token %d); takes over if it is silent for %.1f s",
                self._election,
                event.holder,
                event.fencing_token,
                event.takeover_after,
            )
        else:
            logger.info(
                "Standing by for %s: Redis knows of no leader. Either this is the first start, or "
                "Redis lost its data; in case that a leader is still out there, none is elected "
                "for %.1f s",
                self._election,
                event.takeover_after,
            )

    def _failed(self, event: StoreFailed) -> None:
        now = time.monotonic()
        self._failing = True
        if now < self._silent_until:
            return
        self._silent_until = now + _REPEAT_AFTER
        logger.error(
            "Election %s: %s. Redis at %s; trying again (%d in a row so far), nothing is lost",
            self._election,
            event.error,
            self._server,
            event.failures,
        )
