"""Time of the model: one true time that nobody can read, and the clocks of each machine."""

from __future__ import annotations

from dataclasses import dataclass

from celery_safe_leader._core.instant import Instant

__all__ = ["MachineClock", "TrueTime"]


@dataclass
class TrueTime:
    """Seconds since the model began. Only the model moves it."""

    now: float = 0.0


class MachineClock:
    """Three clocks of one machine, each with a rate and an origin of its own.

    Args:
        truth: What they measure.
        rates: Seconds that CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW and the wall clock count in one
            true second. The promises hold for 0.995 to 1.005.
        origin: Makes the readings of two machines differ.
    """

    def __init__(
        self,
        truth: TrueTime,
        rates: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin: float = 1000.0,
    ) -> None:
        self.truth = truth
        self.rates = rates
        self._origin = origin
        self._stepped = 0.0
        self._slept = 0.0
        self._asleep_since: float | None = None

    def now(self) -> Instant:
        """Read all clocks."""
        true = self.truth.now
        asleep = 0.0 if self._asleep_since is None else true - self._asleep_since
        boottime, raw, wall = self.rates
        return Instant(
            self._origin + boottime * true,
            self._origin + raw * (true - self._slept - asleep),
            1.7e9 + self._origin + wall * true + self._stepped,
        )

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock, as NTP or a person does."""
        self._stepped += seconds

    def suspend(self) -> None:
        """Begin a suspend: CLOCK_MONOTONIC_RAW stands still."""
        if self._asleep_since is None:
            self._asleep_since = self.truth.now

    def wake_up(self) -> None:
        """End a suspend."""
        if self._asleep_since is not None:
            self._slept += self.truth.now - self._asleep_since
            self._asleep_since = None
