"""Makes the requests of one candidate."""

from __future__ import annotations

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, Campaign, Observe, Renew, Resign
from celery_safe_leader._core.observation import Observation
from celery_safe_leader._core.options import Options

__all__ = ["Requests"]

_SHORTEST_AWAIT = 0.01
"""Seconds. Some servers round a shorter blocking time to 0, which means for ever."""


class Requests:
    """Makes requests, each with a nonce that no other request of any candidate has."""

    def __init__(
        self, options: Options, candidate_id: str, seed: str, observation: Observation
    ) -> None:
        self._options = options
        self._candidate_id = candidate_id
        self._seed = seed
        self._observation = observation
        self._made = 0

    def _nonce(self) -> str:
        self._made += 1
        return f"{self._seed}.{self._made}"

    def observe(self, now: Instant) -> Observe:
        """Return a request to read the record."""
        observation = self._observation
        return Observe(
            now,
            self._nonce(),
            observation.longest_ttl,
            observation.highest_token,
            observation.needs_witness,
        )

    def campaign(self, now: Instant, version: str) -> Campaign:
        """Return a request to take the record over under a new token."""
        return self._campaign(now, version, self._observation.highest_token, keep=False)

    def restore(self, now: Instant, version: str, token: int) -> Campaign:
        """Return a request to take back a record that Redis lost, under its old token."""
        return self._campaign(now, version, token, keep=True)

    def _campaign(self, now: Instant, version: str, token: int, *, keep: bool) -> Campaign:
        ttl, longest = self._options.ttl, self._observation.longest_ttl
        me = self._candidate_id
        return Campaign(now, version, me, self._nonce(), ttl, longest, token, keep)

    def renew(self, now: Instant, token: int) -> Renew:
        """Return a renewal."""
        ttl, longest = self._options.ttl, self._observation.longest_ttl
        return Renew(now, self._candidate_id, token, self._nonce(), ttl, longest)

    def resign(self, now: Instant, token: int, reason: str, successor: str) -> Resign:
        """Return a resignation."""
        return Resign(now, self._candidate_id, token, self._nonce(), reason, successor)

    def wait(self, now: Instant, takeover_in: float | None) -> Await:
        """Return a pause until the next observation, or until we may campaign."""
        longest = self._options.wait
        pause = longest if takeover_in is None else min(longest, takeover_in)
        return Await(now, max(_SHORTEST_AWAIT, pause))
