"""Whether the ledger seems to belong to another app."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["EVERYBODYS", "SharedKeyCheck"]

EVERYBODYS = frozenset({"celery.backend_cleanup"})
"""Entries that Celery itself adds to the schedules of many apps."""
_SHOWN = 3
"""How many of the unknown entries are named in the log."""


class SharedKeyCheck:
    """Warns once if the ledger seems to belong to another app."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._told = False

    def check(self, found: Collection[str], own: Iterable[str], *, has_more: bool = False) -> None:
        """Log a warning if the ledger has entries, but none of them is in the schedule.

        Args:
            found: Entries of the ledger.
            own: Entries of this beat's schedule.
            has_more: The ledger may have others, too, which are not in the schedule either.
        """
        has_own = False
        for name in () if self._told else own:
            if name in EVERYBODYS:
                continue
            if name in found:
                return  # nearly always at the first: thousands more need not be looked at
            has_own = True
        theirs = set(found) - EVERYBODYS
        if not (theirs and has_own):
            return
        self._told = True
        count = f"{len(theirs)} {'entry' if len(theirs) == 1 else 'entries'}"
        logger.warning(
            "The ledger of %s has %s, but %s in this beat's schedule: %s. If they belong to "
            "another app, the two apps take turns under one leader_key, and the one on standby "
            "dispatches nothing: give each app its own key. If all entries were renamed, nothing "
            "is wrong",
            self._key,
            f"at least {count}" if has_more else count,
            "it is not" if len(theirs) == 1 else "none of them is",
            ", ".join(f"{name[:80]!r}" for name in sorted(theirs)[:_SHOWN]),
        )
