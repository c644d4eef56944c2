"""How long a leader that cannot dispatch goes on leading before it stands down for another.

It stands down when runs have failed for its patience for reasons that are not their own, and none
was published meanwhile. If that was in vain, since everybody fails alike, it waits twice as long
the next time: leadership must not go round in a circle for an outage that all share.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Cause", "Patience"]

_LONGEST = 3600.0
"""Seconds up to which patience doubles."""
_ONE_TROUBLE = 30.0
"""Seconds between two failures above which they are two troubles; nothing is tried more rarely."""


class Cause(Enum):
    """What keeps a leader from dispatching; the value is the word in the election's history."""

    BROKER = "broker"
    """The broker takes no messages from this process."""
    LEDGER = "ledger"
    """The ledger's Redis does not answer this process, or refuses it."""
    CALL = "call"
    """User code that this process called does not return."""
    CLOCK = "clock"
    """This machine's wall clock is off."""
    PROCESS = "process"
    """An error that was not foreseen, or a step that does not end."""


class Patience:
    """The patience of one process, over all of its tenures. Does no IO and reads no clock.

    One thread may report while another asks. All moments are in seconds, of one clock that never
    goes back.

    Args:
        seconds: After so long without success the process stands down.
    """

    longest_call = 600.0
    """Seconds after which a call that hangs is reason enough, though other runs are published."""

    def __init__(self, seconds: float) -> None:
        self._first = self._seconds = seconds
        self._since: float | None = None
        self._last = 0.0
        self._cause = Cause.PROCESS
        self._ran_out = False

    @property
    def seconds(self) -> float:
        """The patience as it is now: longer after each time in a row that it ran out."""
        return self._seconds

    @property
    def is_in_doubt(self) -> bool:
        """Whether the process has stood down and has published nothing since."""
        return self._seconds > self._first

    def inherit(self, seconds: float) -> None:
        """Go on with the patience of the process before this one, if that stood down in vain."""
        self._seconds = max(self._first, seconds)

    def begin(self) -> None:
        """Note that a tenure begins: what failed before it does not count."""
        self._since, self._ran_out = None, False

    def failed(self, now: float, cause: Cause) -> None:
        """Note that what is due could not be dispatched, through no fault of its own."""
        if self._since is None or now - self._last > _ONE_TROUBLE:
            self._since = now
        self._last, self._cause = now, cause

    def call_hangs(self, now: float, since: float) -> None:
        """Note that user code has not returned that hangs since a moment of this tenure.

        Counts like any failure; and if it lasts very long, also while other runs are published.
        """
        self.failed(now, Cause.CALL)
        self._ran_out |= now - since >= self.longest_call

    def ran_out(self, now: float, cause: Cause) -> None:
        """Note that one single step has lasted for longer than the patience."""
        self.failed(now, cause)
        self._ran_out = True

    def published(self) -> None:
        """Note that the message of a run was published: this process can do its work."""
        self.begin()
        self._seconds = self._first

    def exhausted(self) -> Cause | None:
        """Return why the process should stand down; ``None`` if it should not."""
        failed_for = 0.0 if self._since is None else self._last - self._since
        return self._cause if self._ran_out or failed_for >= self._seconds else None

    def stand_down(self) -> float:
        """Note that the process stands down; return its patience the next time, twice as long."""
        self._seconds = min(2 * self._seconds, max(self._first, _LONGEST))
        self.begin()
        return self._seconds
