"""Moments read on several clocks at once, so that no single clock is trusted.

A step of the wall clock, a suspended machine or a slewed clock shows as a difference between the
clocks of one machine. A leader counts the longest time that any of them shows, a standby the
shortest, so a wrong clock can only end a lease early or make a standby wait longer. Moments of
different machines are never compared.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Instant"]


@dataclass(frozen=True, slots=True)
class Instant:
    """One moment on this machine. All fields are in seconds; their origins differ."""

    boottime: float
    """CLOCK_BOOTTIME: keeps running while the machine is suspended."""
    raw: float
    """CLOCK_MONOTONIC_RAW: not slewed by NTP; stands still while suspended."""
    wall: float
    """The wall clock: may step either way, and shows what the others may miss."""

    def longest_since(self, earlier: Instant) -> float:
        """Return the seconds since ``earlier`` by the clock that shows the most. For leaders."""
        return max(
            self.boottime - earlier.boottime,
            self.raw - earlier.raw,
            self.wall - earlier.wall,
        )

    def shortest_since(self, earlier: Instant) -> float:
        """Return the seconds since ``earlier`` by the slower monotonic clock. For standbys.

        The wall clock does not count here: set back by an hour, it would make us wait an hour.
        """
        return min(self.boottime - earlier.boottime, self.raw - earlier.raw)

    def plus(self, seconds: float) -> Instant:
        """Return the moment that is ``seconds`` later on every clock."""
        return Instant(self.boottime + seconds, self.raw + seconds, self.wall + seconds)
