"""A beat's part in the election of beats: joining it, staying away for a while, leaving it.

Every scheduler of this package uses it. It knows nothing of what is dispatched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import celery

from celery_safe_leader._beat.inspection import answer_inspections, find_services
from celery_safe_leader._beat.log import BeatElectionLog
from celery_safe_leader._clients import (
    make_candidate,
    make_channel,
    warn_of_other_servers,
)
from celery_safe_leader._core.events import Demoted, Elected, Event
from celery_safe_leader._core.leader_request import ResignRequest
from celery_safe_leader._core.messages import Part
from celery_safe_leader._core.presence import clipped
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._runtime.inspection import candidate_answer
from celery_safe_leader._store.keys import BEAT, ElectionKeys
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.leader import SafeLeader

__all__ = ["Membership"]

_SHORTEST_REST = 5.0
"""Seconds."""


def _no_work() -> Mapping[str, Any]:
    return {}


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
        self.channel = make_channel(settings, self._keys, tuple(Part), self)
        """What is sent to the leading beat."""
        self.channel.on_resign_request(self._note_request)
        self.on_change: Callable[[Elected | Demoted], None] = lambda event: None
        """Called when this beat was elected or demoted; must not block."""
        self._request: ResignRequest | None = None
        self._yields_until: float | None = None
        self._is_unable = False
        self._scheduler, self._read_work = "", _no_work
        self._ticked = time.monotonic()

    def describe(
        self, scheduler: type, work: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        """Let `leader status` show more of this beat.

        Args:
            scheduler: Its class.
            work: Returns what its tenure did and what comes next, in JSON's types; from any thread.
        """
        self._scheduler, self._read_work = scheduler.__qualname__, work or _no_work

    def _about(self) -> dict[str, Any]:
        work = self._read_work() if self.is_leader else {}
        return {
            "celery": celery.__version__,
            "scheduler": clipped(self._scheduler),
            "ticked": round(time.monotonic() - self._ticked, 3),
            **({"work": work} if work else {}),
        }

    def join(self) -> SafeLeader:
        """Take part from now on, unless this beat rests; return the candidate. Does not block."""
        self._ticked = time.monotonic()
        if self._leader is None:
            leader = self._make()
            leader.elect()
            self._leader = leader
            answer_inspections(lambda: candidate_answer(leader))
        elif not self._leader.active and time.monotonic() >= self._rests_until:
            self._leader.elect()
        if self._yields_until is not None and time.monotonic() >= self._yields_until:
            self._yields_until = None
            if not self._is_unable:
                self._leader.campaign_in_time()
        self.channel.follow()
        return self._leader

    @property
    def candidate(self) -> SafeLeader | None:
        """The candidate; ``None`` before ``join()``."""
        return self._leader

    def rest(self) -> float:
        """Hand leadership over and stay away long enough for another beat to be elected.

        Returns:
            Seconds until this beat takes part again. A call during the rest restarts it.
        """
        seconds = max(self._settings.ttl, _SHORTEST_REST)
        self._rests_until = time.monotonic() + seconds
        self.channel.stop()
        if self._leader is not None:
            self._leader.stop()
        return seconds

    def stand_down(self, why: str, patience: float = 0.0) -> None:
        """Hand leadership over; from the next ``join()`` on, take part behind all others.

        That ends with ``is_able()``.

        Args:
            why: For the election's history: a word.
            patience: Is of use to embedded beats alone.
        """
        self.channel.stop()
        if self._leader is not None:
            self._is_unable = True
            self._leader.stand_down(why)

    @property
    def must_resign(self) -> bool:
        """Whether somebody asked this beat to resign from its present tenure."""
        request = self._request
        return request is not None and request.token == self.fencing_token

    def resign_as_asked(self) -> None:
        """Hand leadership over, and let all others go first for a moment."""
        request, self._request = self._request, None
        if self._leader is not None and request is not None:
            self.channel.stop()
            self._yields_until = time.monotonic() + 2 * self._leader.courtesy
            self._leader.hand_over(request.reason, request.successor)

    def _note_request(self, request: ResignRequest) -> None:
        leader = self._leader
        if leader is not None:
            logger.warning(
                "This beat was asked to hand leadership over (%s, token %d)",
                request.reason,
                request.token,
            )
            self._request = request
            leader.wake()

    def is_able(self) -> None:
        """Note that this beat can do a leader's work: it goes behind nobody any more."""
        self._is_unable = False
        if self._leader is not None:
            self._leader.campaign_in_time()

    def leave(self) -> None:
        """Hand leadership over and close the connections, for good. May be called twice."""
        self.channel.close()
        if self._leader is not None:
            self._leader.shutdown()

    @property
    def election(self) -> str:
        """Name of the election."""
        return self._keys.election

    @property
    def candidate_id(self) -> str:
        """Of this beat; empty before ``join()``."""
        return "" if self._leader is None else self._leader.candidate_id

    @property
    def is_leader(self) -> bool:
        """Whether this beat leads now: local, without IO."""
        return self._leader is not None and self._leader.is_leader

    @property
    def fencing_token(self) -> int | None:
        """Token of the present tenure, ``None`` if this beat does not lead: local, without IO."""
        return None if self._leader is None else self._leader.fencing_token

    @property
    def remaining(self) -> float:
        """Seconds that the lease lasts at least, unless renewed: local, without IO."""
        return 0.0 if self._leader is None else self._leader.remaining

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
                f"    . server -> {settings.place}",
                f"    . ttl -> {settings.ttl:g} seconds, wait {settings.wait:g} seconds",
            )
        )

    def _make(self) -> SafeLeader:
        settings, election = self._settings, self._keys.election
        leader = make_candidate(settings, self._keys)
        leader.describe(self._about)
        log = BeatElectionLog(election, settings, leader.candidate_id)

        def observe(event: Event) -> None:
            log(event)
            if isinstance(event, (Elected, Demoted)):
                self.on_change(event)

        leader.observe(observe)
        warn_of_other_servers(settings, logger)
        logger.info(
            "Taking part in the election %s at %s as %s",
            election,
            settings.place,
            leader.candidate_id,
        )
        return leader
