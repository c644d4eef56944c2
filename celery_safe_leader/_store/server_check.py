"""Warns, once at the first request, of a server that is too old or that may evict the record."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["OLDEST", "ServerCheck"]

logger = logging.getLogger("celery_safe_leader")

OLDEST = (6, 2)
"""The oldest supported release of Redis. Valkey reports the release that it is compatible with."""


class ServerCheck:
    """Checks the server of one store, once."""

    def __init__(self, keys: ElectionKeys) -> None:
        self._election = keys.election
        self.due = True
        """Whether ``INFO`` still has to be asked: once, even if it fails."""

    def check(self, info: object) -> None:
        """Log what is wrong, given the reply to INFO as redis-py parses it."""
        if not isinstance(info, Mapping):
            return
        self._check_release(info)
        self._check_eviction(info)

    def _check_release(self, info: Mapping[str, Any]) -> None:
        said = str(info.get("redis_version", ""))
        numbers = re.match(r"(\d{1,4})\.(\d{1,4})", said)
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            logger.warning(
                "Election %s: this is Redis %s, and releases before %d.%d are not supported: the "
                "election was never tested with them. Upgrade it",
                self._election,
                said[:40],
                *OLDEST,
            )

    def _check_eviction(self, info: Mapping[str, Any]) -> None:
        policy = str(info.get("maxmemory_policy", "noeviction"))
        limit = info.get("maxmemory", 0)
        if policy != "noeviction" and isinstance(limit, int) and limit > 0:
            logger.warning(
                "Election %s: Redis has maxmemory-policy %s. Once it is full, it may evict the "
                "election's record, and with allkeys-… also the record of periodic runs. Set "
                "noeviction, which Celery's broker needs as well",
                self._election,
                policy[:40],
            )
