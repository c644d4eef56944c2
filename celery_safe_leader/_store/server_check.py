"""What INFO says of a server that will cost somebody a night: told once, at the first request."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["OLDEST", "ServerCheck"]

logger = logging.getLogger(__name__)

OLDEST = (6, 2)
"""The oldest release of Redis that is supported. Valkey names a Redis that it equals."""


class ServerCheck:
    """One look at a server. For one store."""

    def __init__(self, keys: ElectionKeys) -> None:
        """Begin with nothing known."""
        self._election = keys.election
        self.due = True
        """Whether the look is still to be taken, with ``INFO``: once, and an error is no matter."""

    def take(self, info: object) -> None:
        """Say what is wrong, from INFO as redis-py reads it."""
        if not isinstance(info, Mapping):
            return
        self._check_release(info)
        self._check_eviction(info)

    def _check_release(self, info: Mapping[str, Any]) -> None:
        said = str(info.get("redis_version", ""))
        numbers = re.match(r"(\d{1,4})\.(\d{1,4})", said)
        if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST:
            logger.warning(
                "Election %s: this is Redis %s, and what is older than %d.%d is not supported: "
                "nobody has tried whether the election holds there. Update it",
                self._election,
                said[:40],
                *OLDEST,
            )

    def _check_eviction(self, info: Mapping[str, Any]) -> None:
        policy = str(info.get("maxmemory_policy", "noeviction"))
        limit = info.get("maxmemory", 0)
        if policy != "noeviction" and isinstance(limit, int) and limit > 0:
            logger.warning(
                "Election %s: Redis has maxmemory-policy %s. Once it is full it may evict the "
                "election's record, and with allkeys-… also which periodic runs were done. Set "
                "noeviction, as Celery's broker needs it, too",
                self._election,
                policy[:40],
            )
