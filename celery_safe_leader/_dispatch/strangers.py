"""Whether a ledger holds somebody else's schedule: two apps of one key take turns in silence."""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["Strangers"]

logger = logging.getLogger("celery_safe_leader.beat")

_EVERYBODYS = frozenset({"celery.backend_cleanup"})
"""Entries that Celery itself adds to the schedules of many apps."""
_SHOWN = 3


class Strangers:
    """Compares what a leader finds with what it has. Warns once."""

    def __init__(self, key: str) -> None:
        """Begin without suspicion."""
        self._key = key
        self._told = False

    def look(self, found: Iterable[str], own: Iterable[str]) -> None:
        """Say so if the ledger has entries, and none of them is in the schedule.

        Args:
            found: Entries of the ledger.
            own: Entries of this beat's schedule.
        """
        theirs, ours = set(found) - _EVERYBODYS, set(own) - _EVERYBODYS
        if self._told or not theirs or not ours or theirs & ours:
            return
        self._told = True
        logger.warning(
            "The ledger of %s has %d entries, and none of them is in this beat's schedule: %s. If "
            "they belong to another app, the two take turns under one leader_key, and whoever "
            "stands by dispatches nothing: give each its own. If all entries were renamed, nothing "
            "is wrong",
            self._key,
            len(theirs),
            ", ".join(f"{name[:80]!r}" for name in sorted(theirs)[:_SHOWN]),
        )
