"""The schedule as the user wrote it; it records changes, so that nothing has to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["WatchedSchedule", "watch"]


class WatchedSchedule(dict[str, Any]):
    """A ``beat_schedule`` that remembers which of its entries were set or removed.

    Changes inside the value of an entry are not seen: set the entry anew.
    """

    def __init__(self, entries: Mapping[str, Any]) -> None:
        """Copy ``entries``; they do not count as changed."""
        super().__init__(entries)
        self._changed: set[str] = set()

    def changes(self) -> set[str]:
        """Return the names that were set or removed since the last call."""
        if not self._changed:
            return set()
        changed, self._changed = self._changed, set()
        return changed

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self._changed.add(name)

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self._changed.add(name)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set entries."""
        for name, value in dict(*args, **kwargs).items():
            self[name] = value

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Set an entry if it is missing; return it."""
        if name not in self:
            self[name] = default
        return self[name]

    def pop(self, name: str, *default: Any) -> Any:
        """Remove and return an entry."""
        if name in self:
            self._changed.add(name)
        return super().pop(name, *default)

    def popitem(self) -> tuple[str, Any]:
        """Remove and return an entry."""
        name, value = super().popitem()
        self._changed.add(name)
        return name, value

    def clear(self) -> None:
        """Remove all entries."""
        self._changed.update(self)
        super().clear()

    def __ior__(self, other: Any) -> WatchedSchedule:  # type: ignore[override,misc]
        self.update(other)
        return self


def watch(app: Any) -> tuple[WatchedSchedule, bool]:
    """Replace the app's ``beat_schedule`` by a watched one, if it is not one yet.

    Returns:
        The schedule, and whether it has just been replaced: then the user has set a whole new
        schedule, and every entry has to be read.
    """
    present = app.conf.beat_schedule
    if isinstance(present, WatchedSchedule):
        return present, False
    watched = WatchedSchedule(present or {})
    app.conf.beat_schedule = watched
    return watched, True
