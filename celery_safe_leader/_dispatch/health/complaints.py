"""What is wrong with an entry is said at once, and again after a minute at the earliest."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Complaints"]

_EVERY = 60.0
"""Seconds."""


class Complaints:
    """When each entry was complained of last. For one thread.

    Args:
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._kept: dict[str, int] = {}

    def may_say(self, name: str) -> bool:
        """Return whether an entry may be complained of now; if not, it is counted."""
        now = self._clock()
        said = self._said.get(name)
        if said is not None and now - said < _EVERY:
            self._kept[name] = self._kept.get(name, 0) + 1
            return False
        self._said[name] = now
        return True

    def since(self, name: str) -> str:
        """Return how often an entry was not complained of since the last time, as a clause."""
        kept = self._kept.pop(name, 0)
        return f" ({kept} runs more since this was last said)" if kept else ""

    def forget(self, name: str) -> None:
        """Forget an entry that is gone."""
        self._said.pop(name, None)
        self._kept.pop(name, None)
