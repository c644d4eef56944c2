"""A beat's part in the election of beats: joining it, staying away for a while, leaving it.

Every scheduler of this package uses it. It knows nothing of what is dispatched.
"""

from __future__ import annotations

import time

from celery_safe_leader._beat.inspection import answer_inspections, find_services
from celery_safe_leader._beat.log import BeatElectionLog
from celery_safe_leader._clients import make_candidate
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.inspection import candidate_answer
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.leader import SafeLeader

__all__ = ["Membership"]

_SHORTEST_REST = 5.0
"""Seconds."""


class Membership:
    """One beat in the election of the beats of one key.

    Does no IO until ``join()``. For one thread, and for its signal handlers; the properties may be
    read on any thread.
    """

    def __init__(self, settings: LeaderSettings) -> None:
        find_services()
        self._settings = settings
        self._keys = ElectionKeys(settings.key, BEAT, settings.prefix)
        self._leader: SafeLeader | None = None
        self._rests_until = 0.0

    def join(self) -> SafeLeader:
        """Take part from now on, unless this beat rests; return the candidate. Does not block."""
        if self._leader is None:
            leader = self._make()
            leader.elect()
            self._leader = leader
            answer_inspections(lambda: candidate_answer(leader))
        elif not self._leader.active and time.monotonic() >= self._rests_until:
            self._leader.elect()
        return self._leader

    def rest(self) -> float:
        """Hand leadership over and stay away long enough for another beat to be elected.

        Returns:
            Seconds until this beat takes part again. A call during the rest restarts it.
        """
        seconds = max(self._settings.ttl, _SHORTEST_REST)
        self._rests_until = time.monotonic() + seconds
        if self._leader is not None:
            self._leader.stop()
        return seconds

    def leave(self) -> None:
        """Hand leadership over and close the connections, for good. May be called twice."""
        if self._leader is not None:
            self._leader.shutdown()

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._leader is not None and self._leader.is_leader

    @property
    def fencing_token(self) -> int | None:
        """Token of the present tenure, ``None`` if this beat does not lead: local, without IO."""
        return None if self._leader is None else self._leader.fencing_token

    @property
    def info(self) -> str:
        """Lines for beat's banner; without secrets."""
        settings = self._settings
        if self._leader is None:
            role = "not started"
        else:
            role = "leader" if self.is_leader else "standby"
        return "\n".join(
            (
                f"    . election -> {self._keys.election} ({role})",
                f"    . server -> {settings.server}",
                f"    . ttl -> {settings.ttl:g} seconds, wait {settings.wait:g} seconds",
            )
        )

    def _make(self) -> SafeLeader:
        settings, election = self._settings, self._keys.election
        leader = make_candidate(settings, self._keys)
        leader.observe(
            BeatElectionLog(election, settings.server, settings.ttl, leader.candidate_id)
        )
        logger.info(
            "Taking part in the election %s at %s as %s",
            election,
            settings.server,
            leader.candidate_id,
        )
        return leader
