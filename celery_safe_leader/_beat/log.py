"""What a beat logs about its election: one line for each transition, to be read at night."""

from __future__ import annotations

from celery_safe_leader._core.events import (
    Demoted,
    DemotionReason,
    Elected,
    HolderSeen,
    StoreFailed,
)
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.election_log import ElectionLog
from celery_safe_leader._store.errors import is_login_refused
from celery_safe_leader.conf import LeaderSettings

__all__ = ["BeatElectionLog"]


class BeatElectionLog(ElectionLog):
    """Logs the events of one beat's candidate. For one thread."""

    def __init__(self, election: str, settings: LeaderSettings, candidate_id: str) -> None:
        super().__init__(
            logger, election, settings.place, candidate_id, "beat", settings.login_setting
        )
        self._ttl = settings.ttl

    def elected(self, event: Elected) -> None:
        """Log that this beat dispatches from now on."""
        logger.info(
            "Elected leader of %s: this beat dispatches now (token %d, ttl %g s)",
            self._election,
            event.fencing_token,
            self._ttl,
        )

    def demoted(self, event: Demoted) -> None:
        """Log that this beat no longer dispatches, and why."""
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

    def standing_by(self, event: HolderSeen) -> None:
        """Log who leads instead, and when this beat may take over."""
        if event.holder:
            logger.info(
                "Standing by for %s: %s leads (token %d); takes over after %.1f s of silence",
                self._election,
                event.holder,
                event.fencing_token,
                event.takeover_after,
            )
        else:
            logger.info(
                "Standing by for %s: Redis knows of no leader. Either this is the first start, or "
                "Redis lost its data; in case a leader is still running, nobody is elected for "
                "%.1f s",
                self._election,
                event.takeover_after,
            )

    def store_failed(self, event: StoreFailed) -> None:
        """Log what is wrong with Redis."""
        if is_login_refused(event.error):
            self.login_refused(event.error.detail, event.failures)
            return
        logger.error(
            "Election %s: %s. Redis at %s; trying again (%d in a row so far), nothing is lost",
            self._election,
            event.error,
            self._server,
            event.failures,
        )
