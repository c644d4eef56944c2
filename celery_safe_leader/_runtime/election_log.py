"""Decides when a candidate logs; ``_beat/log.py`` and ``_worker/log.py`` have the lines."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod

from celery_safe_leader._core.events import Demoted, Elected, Event, HolderSeen, StoreFailed

__all__ = ["ElectionLog"]

_REPEAT_AFTER = 60.0
"""Seconds after which an error that persists is logged again."""


class ElectionLog(ABC):
    """Passes the events of one candidate to the methods that log them. For one thread.

    An outage of Redis is logged once a minute, and so are its refusals; the end of either with the
    next election or change of leader. That a leader resigned, or that this candidate holds the
    record itself, is not logged.
    """

    def __init__(
        self,
        logger: logging.Logger,
        election: str,
        server: str,
        candidate_id: str,
        who: str,
        login_setting: str,
    ) -> None:
        """Create the log of one candidate.

        Args:
            logger: Of beats or of workers.
            election: Name of the election.
            server: The Redis server and the setting that names it, without secrets.
            candidate_id: Id of the candidate.
            who: What takes part, a beat or a worker.
            login_setting: Where the user name and the password can be corrected.
        """
        self._logger = logger
        self._election = election
        self._server = server
        self._candidate_id = candidate_id
        self._who = who
        self._login_setting = login_setting
        self._silent_until: dict[type, float] = {}
        self._failing = False

    def __call__(self, event: Event) -> None:
        """Log an event, if it is worth a line."""
        if isinstance(event, StoreFailed):
            self._store_failed(event)
            return
        if self._failing and isinstance(event, (Elected, HolderSeen)):
            self._failing = False
            self._silent_until.clear()
            self._logger.info("Redis at %s answers again", self._server)
        if isinstance(event, Elected):
            self.elected(event)
        elif isinstance(event, Demoted):
            self.demoted(event)
        elif event.holder != self._candidate_id and not event.resigned:
            self.standing_by(event)

    def _store_failed(self, event: StoreFailed) -> None:
        now = time.monotonic()
        self._failing = True
        kind = type(event.error)
        if now >= self._silent_until.get(kind, 0.0):
            self._silent_until[kind] = now + _REPEAT_AFTER
            self.store_failed(event)

    def login_refused(self, detail: str, failures: int) -> None:
        """Log where user and password can be corrected, for ``store_failed``."""
        self._logger.error(
            "Election %s: %s. Redis at %s. Correct the user or password in %s, or in Redis: until "
            "then this %s can neither be elected nor renew its lease. Trying again (%d in a row so "
            "far)",
            self._election,
            detail,
            self._server,
            self._login_setting,
            self._who,
            failures,
        )

    @abstractmethod
    def elected(self, event: Elected) -> None:
        """Log that this candidate leads from now on."""

    @abstractmethod
    def demoted(self, event: Demoted) -> None:
        """Log that it no longer leads, and why."""

    @abstractmethod
    def standing_by(self, event: HolderSeen) -> None:
        """Log who leads instead; ``holder`` is empty if Redis has no record of a leader."""

    @abstractmethod
    def store_failed(self, event: StoreFailed) -> None:
        """Log that Redis did not do what was asked."""
