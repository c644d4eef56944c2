"""A clock that stands still until a test sets it, in the place of the module ``time``."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Stands in for ``time`` in a module that reads ``time.monotonic()``."""

    now = 100.0
    """Seconds."""

    def monotonic(self) -> float:
        """Return the time that was set."""
        return self.now
