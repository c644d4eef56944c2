"""When a candidate says something of itself, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["Announcements"]

_REST = 600.0
"""Seconds for which nothing is said after the server has refused it for good."""
_PRUNE_EACH = 16
"""Of so many times, one removes up to 16 of those who say no more. A scan costs Redis more than all
else of it, and little more for many fields than for one."""
_RIGHTS = ("NOPERM", "ACL failure in script", "executing the script can't", "No permissions")
"""How a server says that a right is missing; the others are what scripts are told."""


class Announcements:
    """Lets one candidate say something at most once per ttl. Decides nothing, and fails nobody.

    For the thread of the store.
    """

    def __init__(self, keys: ElectionKeys) -> None:
        self._keys = keys
        self._read: Callable[[], tuple[str, str]] | None = None
        self._every = 0.0
        self._last: Instant | None = None
        self._pause = 0.0
        self._told = False
        self._said = 0
        self._cursor = "0"
        self._me = ""

    def begin(self, read: Callable[[], tuple[str, str]], every: float) -> None:
        """Say something from now on.

        Args:
            read: Returns the candidate's id, and what it says; called on the store's thread.
            every: Seconds: not more often.
        """
        self._read, self._every = read, every

    def due(self, now: Instant) -> tuple[str, str, str] | None:
        """Return what to say, if it is time to; it does not count as said.

        Returns:
            The candidate's id, what it says, and where to look for those that say no more; that is
            empty if it need not be done this time.
        """
        if self._read is None:
            return None
        if self._last is not None and now.shortest_since(self._last) < self._every + self._pause:
            return None
        try:
            me, text = self._read()
        except Exception:
            # Whatever it is that cannot be shown: the request goes on without.
            logger.debug("Election %s: nothing is announced", self._keys.election, exc_info=True)
            self._last = now
            return None
        self._me = me
        return me, text, "" if self._said % _PRUNE_EACH else self._cursor

    def answered(self, reply: object, sent_at: Instant) -> None:
        """Note what the script replied: a cursor, an empty text, or what the server refused."""
        said = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply or "")
        self._last, self._pause, self._said = sent_at, 0.0, self._said + 1
        if said.isdigit():
            self._cursor = said
        elif any(mark in said for mark in _RIGHTS):
            self.refused(said, sent_at)
        elif said:
            self._cursor = "0"
            logger.debug("Election %s: not announced: %s", self._keys.election, said)

    def taken_back(self) -> str:
        """Return the id under which something may stand, and say something at once if asked again.

        Returns:
            Empty if nothing was said, or the Redis user may not.
        """
        me, self._me = self._me, ""
        if self._pause:
            return ""
        self._last = None
        return me

    def put_off(self, sent_at: Instant) -> None:
        """Note that it cannot be done now, since the slot of a cluster moves."""
        self._last, self._pause = sent_at, 0.0

    def refused(self, refusal: str, sent_at: Instant) -> None:
        """Note that the Redis user may not do it; said once."""
        self._last, self._pause = sent_at, _REST
        if not self._told:
            self._told = True
            logger.warning(
                "Election %s: `leader status` does not show this candidate, since the Redis user "
                "lacks a right (%s). The election goes on as ever; `celery -A proj leader acl` "
                "prints all rights",
                self._keys.election,
                " ".join(refusal.split()),
            )
