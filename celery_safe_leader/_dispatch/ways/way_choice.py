"""Which way the runs of a tenure are published: in one script, or claimed first.

One script can do it where the broker and the ledger are one database of one server. No URL tells
that: a value written over the broker's connection has to be there over the ledger's. It is written
again after each new connection of either side. In doubt, runs are claimed first.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from celery_safe_leader._dispatch.ports import MessagePublisher
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.way import LIFE, Way
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader.errors import StoreError

__all__ = ["WayChoice"]

_PROBE_LIFE = 60
"""Seconds."""


class WayChoice:
    """The way of one tenure's runs. For one thread.

    Args:
        ledger: Adopted.
        publisher: Of the broker.
        unreachable: Told what was raised, and how many runs wait, if the broker is not reached.
        refusal: Why no run of this tenure may go out in one script; empty if that is not so.
    """

    def __init__(
        self,
        ledger: Ledger,
        publisher: MessagePublisher,
        unreachable: Callable[[BaseException, int], None],
        refusal: str = "",
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._unreachable = unreachable
        self._refusal = refusal
        self._probed = (0, 0)
        self._reason = refusal
        self._way: Way | None = None
        self._has_worked = False
        self._is_told = False
        self._note_at = 0.0

    @property
    def is_transactional(self) -> bool:
        """Whether plain runs go out in the script that records them, as far as is known now."""
        return self._way is Way.TRANSACTIONAL

    @property
    def name(self) -> str | None:
        """Which way it is, for people; ``None`` while nothing was published in this tenure."""
        return None if self._way is None else self._way.value

    def choose(self, waiting: int) -> bool:
        """Look whether the way is still the right one; cheap while no connection is new.

        Args:
            waiting: How many runs wait for it.

        Returns:
            Whether the broker can be reached. If not, nothing was changed.

        Raises:
            StoreError: The ledger's Redis failed.
        """
        if not self._refusal and not self.is_current():
            reason = self._probe(waiting)
            if reason is None:
                return False
            self._reason, self._probed = reason, self._connections()
        self._set()
        return True

    def is_current(self) -> bool:
        """Whether both connections are still those of the last look."""
        return self._probed == self._connections() and 0 not in self._probed

    def _connections(self) -> tuple[int, int]:
        return self._publisher.connection_number, self._ledger.connection_number

    def fall_back(self, refusal: str) -> None:
        """Let no further run of this tenure go out in one script."""
        self._refusal = self._reason = refusal
        self._set()

    def note_success(self) -> None:
        """Note that a script of this tenure did both: no right is missing for it."""
        if not self._has_worked:
            self._has_worked = True
            self._set()

    def _probe(self, waiting: int) -> str | None:
        """Return why broker and ledger are not known to be one database; empty if they are.

        Returns:
            ``None`` if the broker cannot be reached.
        """
        value = secrets.token_hex(16)
        try:
            reason = self._publisher.why_not_transactional()
            if reason:
                return reason
            broker = self._publisher.leave_probe(self._ledger.probe_key, value, _PROBE_LIFE)
        except Exception as exc:
            self._unreachable(exc, waiting)
            return None
        found, ledger = self._ledger.read_probe()
        if found != value:
            return "broker and ledger are not one database of one Redis server"
        if broker and ledger and broker != ledger:
            return "broker and ledger are not one Redis server"
        return ""

    def _set(self) -> None:
        way = Way.WRITE_AHEAD if self._reason else Way.TRANSACTIONAL
        if way is not self._way:
            self._way, self._is_told, self._note_at = way, False, 0.0
        if way is Way.WRITE_AHEAD or self._has_worked:
            self._tell(way)

    def _tell(self, way: Way) -> None:
        if not self._is_told:
            self._is_told = True
            self._log(way)
        if time.monotonic() >= self._note_at:
            self._note_at = time.monotonic() + LIFE / 7
            self._note(way)

    def _note(self, way: Way) -> None:
        try:
            self._ledger.note_way(way, self._reason)
        except StoreError as exc:
            logger.debug("%s: `leader status` does not show the way of publication", exc)

    def _log(self, way: Way) -> None:
        if way is Way.TRANSACTIONAL:
            logger.info(
                "Due runs of %s are published and recorded in one script (transactional)",
                self._ledger.key,
            )
        else:
            logger.info(
                "Due runs of %s are claimed, published and committed (write-ahead): %s",
                self._ledger.key,
                self._reason,
            )
