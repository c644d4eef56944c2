"""Functions to be called at an event, by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_safe_leader.errors import ConfigurationError

__all__ = ["EVENT_NAMES", "Listener", "Listeners"]

EVENT_NAMES = ("elected", "demoted", "new_leader", "error")
Listener = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Registration:
    listener: Listener
    once: bool


class Listeners:
    """Listeners of one candidate, in the order in which they were added. Thread-safe."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[_Registration, ...]] = dict.fromkeys(EVENT_NAMES, ())

    def add(self, event: str, listener: Listener, *, once: bool = False) -> None:
        """Add a listener.

        Raises:
            ConfigurationError: There is no such event, or the listener cannot be called.
        """
        self._check(event)
        if not callable(listener):
            raise ConfigurationError("listener", repr(listener), "a function")
        self._entries[event] += (_Registration(listener, once),)

    def remove(self, event: str, listener: Listener) -> None:
        """Remove a listener; of two equal ones the later. Unknown ones are ignored."""
        self._check(event)
        entries = list(self._entries[event])
        for place in reversed(range(len(entries))):
            if entries[place].listener == listener:
                del entries[place]
                break
        self._entries[event] = tuple(entries)

    def clear(self, event: str | None = None) -> None:
        """Remove all listeners of an event, or of all events."""
        if event is not None:
            self._check(event)
        for name in EVENT_NAMES if event is None else (event,):
            self._entries[name] = ()

    def has(self, event: str) -> bool:
        """Return whether an event has listeners."""
        return bool(self._entries[event])

    def pop_callees(self, event: str) -> tuple[Listener, ...]:
        """Return the listeners to call now, and remove those that are called only once."""
        entries = self._entries[event]
        if any(entry.once for entry in entries):
            gone = {id(entry) for entry in entries if entry.once}
            kept = (entry for entry in self._entries[event] if id(entry) not in gone)
            self._entries[event] = tuple(kept)
        return tuple(entry.listener for entry in entries)

    @staticmethod
    def _check(event: str) -> None:
        if event not in EVENT_NAMES:
            raise ConfigurationError("event", repr(event), "one of " + ", ".join(EVENT_NAMES))
