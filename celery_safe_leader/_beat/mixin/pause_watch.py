"""Whether people have paused the key, for schedulers that keep no ledger of ours."""

from __future__ import annotations

import time
from typing import Any

import redis

from celery_safe_leader._beat.election_history import somebody_led_well
from celery_safe_leader._clients import redis_client
from celery_safe_leader._ledger.hash_sentinel import SENTINEL, decode_pause, decode_sentinel
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.pausing import end_expired_pause
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import BEAT, ElectionKeys, LedgerKeys
from celery_safe_leader._store.server_now import read_time
from celery_safe_leader.conf import LeaderSettings
from celery_safe_leader.errors import SafeLeaderError

__all__ = ["PauseWatch"]

_LOOK_EVERY = 1.0
"""Seconds."""
_COMPLAIN_EVERY = 60.0
"""Seconds."""


class PauseWatch:
    """Looks at the ledger's pause. For one thread. Does no IO until it is asked."""

    def __init__(self, settings: LeaderSettings) -> None:
        self._settings = settings
        self._names = LedgerKeys(settings.key, settings.prefix)
        self._client: redis.Redis | None = None
        self._look_at = self._complain_at = 0.0
        self._is_paused = False

    def begin(self, holder: str, token: int) -> None:
        """Make a ledger if there is none, so that this key can be paused. Entries are not in it.

        Args:
            holder: Candidate id of this leader.
            token: Its fencing token.
        """
        self._look_at = 0.0
        try:
            raw = self._sentinel()
            found = decode_sentinel(raw) if raw else None
            if raw is None or (found is not None and not found.partial and not found.mark):
                settings = self._settings
                Ledger(
                    self._connected(), settings.key, BEAT,
                    ttl=settings.ttl, clock=time.monotonic, prefix=settings.prefix,
                ).adopt(holder, token)  # fmt: skip
        except SafeLeaderError as exc:
            # Whether the scheduler may work does not depend on it.
            logger.warning("This key cannot be paused while this beat leads: %s", exc)

    def is_paused(self) -> bool:
        """Return whether nothing may be sent. Asks Redis once a second at most.

        Without an answer, what was known last holds.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            try:
                self._is_paused = self._look()
            except SafeLeaderError as exc:
                logger.debug("the pause cannot be read: %s", exc)
        if self._is_paused and now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            logger.error(
                "%s is paused: this beat leads and sends nothing until `leader resume`, or the end "
                "of the pause. See `celery -A proj leader status`",
                self._settings.key,
            )
        return self._is_paused

    def redis_time(self) -> int:
        """Return Redis's clock in microseconds since 1970.

        Raises:
            SafeLeaderError: No answer, or the user lacks the right.
        """
        return read_time(self._connected())

    def led_well(self, me: str, since: int) -> bool:
        """Return whether another beat led well since a tenure of this one.

        Args:
            me: Candidate id of this beat.
            since: Token of that tenure.
        """
        history = ElectionKeys(self._settings.key, BEAT, self._settings.prefix).history
        return somebody_led_well(self._connected(), history, me, since)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()

    def _look(self) -> bool:
        raw = self._sentinel()
        pause = decode_pause(raw) if raw else None
        if pause is None:
            self._complain_at = 0.0
            return False
        client = self._connected()
        if pause.until_us and read_time(client) >= pause.until_us:
            return end_expired_pause(client, self._names).pause is not None
        return True

    def _sentinel(self) -> bytes | None:
        client: Any = self._connected()
        try:
            raw = client.execute_command("HGET", self._names.runs, SENTINEL)
        except (redis.RedisError, OSError) as exc:
            raise translate(self._names.runs, exc) from exc
        return raw if isinstance(raw, bytes) else None

    def _connected(self) -> redis.Redis:
        if self._client is None:
            self._client = redis_client(self._settings, self._names.runs)
        return self._client
