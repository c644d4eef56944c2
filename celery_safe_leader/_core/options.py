"""Validated options of one candidate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from celery_safe_leader.errors import ConfigurationError

__all__ = ["MARGIN", "MAX_TTL", "MAX_UNQUESTIONED_TTL", "Options"]

MARGIN = 0.01
"""Fraction by which a leader stops early and a standby waits longer.

Two clocks that are each within 0.5 % of true time are within 1 % of each other.
"""
MAX_UNQUESTIONED_TTL = 300.0
"""Seconds. A longer ttl was most likely meant as milliseconds, as in the JavaScript original."""
MAX_TTL = 86_400.0
"""Seconds. No lease is longer, whatever a record says, so a broken record cannot stop us."""
MIN_TTL = 0.05
"""Seconds. Below this, thread scheduling alone takes a good part of the lease."""


@dataclass(frozen=True, slots=True, init=False)
class Options:
    """What a candidate is configured with. Times are in seconds."""

    ttl: float
    """Length of the lease, from 0.05 s to one day."""
    wait: float
    """Longest pause between two observations by a standby."""
    wait_replicas: int
    """Replicas that must confirm a lease before it counts; 0 for none."""

    def __init__(
        self,
        ttl: float | timedelta,
        wait: float | timedelta | None = None,
        wait_replicas: int = 0,
        *,
        allow_long_ttl: bool = False,
    ) -> None:
        """Check the options.

        Args:
            ttl: Lease length in seconds, or a timedelta.
            wait: Longest pause between two observations by a standby in seconds, or a timedelta.
                ``None`` means a fifth of the ttl. May be longer than the ttl.
            wait_replicas: How many replicas must confirm, at least 0.
            allow_long_ttl: Accept a ttl or a wait above 300 s.

        Raises:
            ConfigurationError: A value is not allowed.
        """
        length = _seconds("ttl", ttl, MIN_TTL)
        if not allow_long_ttl:
            _refuse_milliseconds("ttl", length)
        if isinstance(wait_replicas, bool) or not isinstance(wait_replicas, int):
            raise ConfigurationError("wait_replicas", repr(wait_replicas), "a whole number")
        if wait_replicas < 0:
            raise ConfigurationError("wait_replicas", repr(wait_replicas), "at least 0")
        object.__setattr__(self, "ttl", length)
        pause = length / 5 if wait is None else _seconds("wait", wait, 0.001)
        if wait is not None and not allow_long_ttl:
            _refuse_milliseconds("wait", pause)
        object.__setattr__(self, "wait", pause)
        object.__setattr__(self, "wait_replicas", wait_replicas)

    @property
    def renew_interval(self) -> float:
        """Seconds between two renewals; two may fail before the lease ends."""
        return self.ttl / 3

    @property
    def request_timeout(self) -> float:
        """Seconds after which a request is given up; two more fit into the lease."""
        return self.ttl / 3

    @property
    def lease_length(self) -> float:
        """Seconds for which an accepted request makes us lead, counted from before it was sent."""
        return self.ttl * (1 - MARGIN)

    @property
    def confirm_timeout(self) -> float:
        """Seconds that a server waits for its replicas; well within ``request_timeout``."""
        return self.ttl / 4


def _refuse_milliseconds(name: str, seconds: float) -> None:
    if seconds > MAX_UNQUESTIONED_TTL:
        raise ConfigurationError(
            name,
            f"{seconds:g} s",
            f"at most {MAX_UNQUESTIONED_TTL:g} s, since a longer one was most likely meant as "
            f"milliseconds (then write {seconds / 1000:g}); pass allow_long_ttl=True if you mean "
            "seconds",
        )


def _seconds(name: str, value: float | timedelta, least: float) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    allowed = f"a number of seconds from {least:g} to {MAX_TTL:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(name, f"{value!r} (a {type(value).__name__})", allowed)
    if not least <= value <= MAX_TTL:  # nor NaN
        raise ConfigurationError(name, repr(value), allowed)
    return float(value)
