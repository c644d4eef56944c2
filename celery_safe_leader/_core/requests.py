"""Requests of one candidate, filled in."""

from __future__ import annotations

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew, Resign
from celery_safe_leader._core.observation import Observation
from celery_safe_leader._core.options import Options

__all__ = ["Requests"]

_SHORTEST_AWAIT = 0.01
"""Seconds. Some servers take a shorter blocking time for 0, which is for ever."""


class Requests:
    """Makes requests; every one has a nonce that no other request of any candidate has."""

    def __init__(self, options: Options, candidate_id: str, seed: str, sight: Observation) -> None:
        """Remember who asks."""
        self._options = options
        self._candidate_id = candidate_id
        self._seed = seed
        self._sight = sight
        self._made = 0

    def _nonce(self) -> str:
        self._made += 1
        return f"{self._seed}.{self._made}"

    def observe(self, now: Instant) -> Observe:
        """Draft a look at the record."""
        sight = self._sight
        return Observe(
            now,
            self._nonce(),
            sight.longest_ttl,
            sight.highest_token,
            sight.needs_witness,
        )

    def campaign(self, now: Instant, version: str) -> Campaign:
        """Draft the take-over of a record under a new token."""
        return self._take(now, version, self._sight.highest_token, keep=False)

    def restore(self, now: Instant, version: str, token: int) -> Campaign:
        """Draft the leader's taking back of what Redis lost, under its old token."""
        return self._take(now, version, token, keep=True)

    def _take(self, now: Instant, version: str, token: int, *, keep: bool) -> Campaign:
        ttl, longest = self._options.ttl, self._sight.longest_ttl
        me = self._candidate_id
        return Campaign(now, version, me, self._nonce(), ttl, longest, token, keep)

    def renew(self, now: Instant, token: int) -> Renew:
        """Draft a renewal."""
        ttl, longest = self._options.ttl, self._sight.longest_ttl
        return Renew(now, self._candidate_id, token, self._nonce(), ttl, longest)

    def resign(self, now: Instant, token: int, reason: str) -> Resign:
        """Draft a resignation."""
        return Resign(now, self._candidate_id, token, self._nonce(), reason)

    def wait(self, now: Instant, takeover_in: float | None) -> Await:
        """Draft a pause until the next look, or until a take-over may be tried."""
        longest = self._options.wait
        pause = longest if takeover_in is None else min(longest, takeover_in)
        return Await(now, max(_SHORTEST_AWAIT, pause))
