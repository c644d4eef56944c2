"""Whether the election that a ledger belongs to still has a leader.

The same rule as for a lease: a record is dead once it was seen unchanged for a little more than
its ttl, on the observer's own clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from celery_safe_leader._core.options import MARGIN, MAX_TTL

__all__ = ["OwnerWatch"]


class OwnerWatch:
    """Watches the lease record of the election that owns the ledger.

    Args:
        ttl: Seconds; the shortest time for which a record is watched.
        clock: Returns seconds that have passed; never goes back.
    """

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self._ttl = ttl
        self._clock = clock
        self._longest = ttl
        self._since = math.inf
        self._version = (b"", b"")
        self.role = ""
        """Role of the election that is watched."""

    def follow(self, role: str) -> None:
        """Watch the election of this role from now on."""
        self.role = role
        self._longest = self._ttl
        self._since = math.inf
        self._version = (b"", b"")

    def see(self, token: bytes, renewal: bytes, ttl_ms: bytes) -> None:
        """Note a record that was just read."""
        if ttl_ms.isdigit():
            self._longest = max(self._longest, min(int(ttl_ms[:16]) / 1000, MAX_TTL))
        if (token, renewal) != self._version or self._since == math.inf:
            self._version = (token, renewal)
            self._since = self._clock()

    def proof(self) -> tuple[bytes, bytes]:
        """Return token and renewal of a record that is dead, or two empty values."""
        if self._clock() - self._since >= (1 + MARGIN) * self._longest:
            return self._version
        return (b"", b"")
