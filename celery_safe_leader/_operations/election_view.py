"""An election seen from outside: who was seen to hold the lease, and how sure that is.

Nobody outside can know who leads at this moment. What can be said is when the record was last
renewed, and for how long its holder may lead from then on.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Collection
from dataclasses import dataclass

import redis

from celery_safe_leader._core.options import MARGIN
from celery_safe_leader._operations.target import Target, optional
from celery_safe_leader._store.record_view import RecordView, read_record
from celery_safe_leader._store.server_now import read_epoch, read_time

__all__ = ["ElectionView", "Hold", "ServerView", "look_at", "read_server"]

_POLL = 0.05
"""Seconds between two reads of a record."""
_SURE = 0.5
"""Of a ttl: a holder that renewed so recently is alive, since it renews each third."""
_GONE = 1 + MARGIN
"""Of a ttl: a holder that was silent for so long has stopped leading by its own clock."""
_LEASE = 1 - MARGIN
"""Of a ttl: how long a lease lasts from its renewal on, at most."""


class Hold(enum.Enum):
    """What a record says of the lease; the value is what JSON shows."""

    HELD = "held"
    """Its holder renewed it so recently that it is alive."""
    SILENT = "silent"
    """Its holder has not renewed it for more than the ttl: it leads no more."""
    RESIGNED = "resigned"
    """Its last holder gave it up."""
    VACANT = "vacant"
    """Nobody has had it since Redis was emptied; candidates wait in case somebody still leads."""
    ABSENT = "absent"
    """Redis holds no record of this election."""
    UNCLEAR = "unclear"
    """One look does not tell."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """What a server says of itself; ``None`` for what the Redis user may not ask."""

    now_us: int | None
    """Its clock: microseconds since 1970."""
    epoch: str | None
    missing: tuple[str, ...]
    """Commands that the user lacks the right to."""


@dataclass(frozen=True, slots=True)
class ElectionView:
    """One election, as it was seen."""

    role: str
    """``beat``, ``worker`` or ``library``."""
    hold: Hold
    record: RecordView | None
    silent_for: float | None
    """Seconds since the last renewal, when it was looked at; ``None`` if that is not known."""

    @property
    def may_lead_for(self) -> float | None:
        """Seconds for which the holder may go on leading at most if it does not renew."""
        if self.hold is not Hold.HELD or self.record is None:
            return None
        silent = self.silent_for or 0.0
        return max(0.0, _LEASE * self.record.ttl - silent)


def read_server(client: redis.Redis) -> ServerView:
    """Return what a server says of itself.

    Raises:
        StoreError: It does not answer, or refuses for another reason than a missing right.
    """
    now_us, no_time = optional(lambda: read_time(client))
    epoch, no_info = optional(lambda: read_epoch(client))
    missing = [name for name, why in (("time", no_time), ("info", no_info)) if why]
    return ServerView(now_us, epoch, tuple(missing))


def look_at(
    client: redis.Redis, target: Target, roles: Collection[str], server: ServerView, *, wait: bool
) -> list[ElectionView]:
    """Look at some elections, and again at those of which one look tells too little.

    Args:
        client: For their Redis.
        target: Whose elections.
        roles: Which of them; those that the user may not read are left out unless it may read none.
        server: As it was read just before.
        wait: Look again for up to a ttl; else such an election is ``UNCLEAR``.

    Raises:
        StoreError: Redis does not answer, or lets the user read none of the records.
    """
    views, refusal = [], None
    for role in roles:
        keys = target.election(role)
        record, why = optional(lambda keys=keys: [read_record(client, keys)])  # type: ignore[misc]
        if record is None:
            refusal = why
        else:
            views.append(judge(role, record[0], server))
    if refusal is not None and not views:
        read_record(client, target.election(next(iter(roles))))  # raises it
    return _look_again(client, target, views) if wait else views


def judge(role: str, record: RecordView | None, server: ServerView) -> ElectionView:
    """Return what one look at a record tells."""
    if record is None:
        return ElectionView(role, Hold.ABSENT, None, None)
    if not record.holder:
        return ElectionView(role, Hold.VACANT, record, None)
    # Another server's clock than that which stamped the renewal tells nothing.
    is_same = server.epoch is not None and server.epoch == record.epoch
    silent = None
    if is_same and server.now_us is not None and record.renewed_us is not None:
        silent = (server.now_us - record.renewed_us) / 1e6
    if record.resigned:
        return ElectionView(role, Hold.RESIGNED, record, silent)
    hold = Hold.UNCLEAR
    # Records are read after the clock: less than nothing is "just now". More of it is a clock that
    # was set back.
    if silent is not None and -_SURE * record.ttl <= silent <= _SURE * record.ttl:
        hold, silent = Hold.HELD, max(0.0, silent)
    elif silent is not None and silent >= _GONE * record.ttl:
        hold = Hold.SILENT
    elif silent is not None and silent < 0:
        silent = None
    return ElectionView(role, hold, record, silent)


def _look_again(
    client: redis.Redis, target: Target, views: list[ElectionView]
) -> list[ElectionView]:
    started = time.monotonic()
    while any(view.hold is Hold.UNCLEAR for view in views):
        time.sleep(_POLL)
        waited = time.monotonic() - started
        views = [_second_look(client, target, view, waited) for view in views]
    return views


def _second_look(
    client: redis.Redis, target: Target, view: ElectionView, waited: float
) -> ElectionView:
    if view.hold is not Hold.UNCLEAR or view.record is None:
        return view
    before, now = view.record, read_record(client, target.election(view.role))
    if now is None or not now.holder or now.resigned:
        return judge(view.role, now, ServerView(None, None, ()))
    if now.renewal != before.renewal and before.renewed_us is None:
        # Not the election's own: a standby has given it a name, or its holder has renewed it.
        return ElectionView(view.role, Hold.UNCLEAR, now, view.silent_for)
    if now.renewal != before.renewal:
        # Within the last pause, so its age is known without anybody's clock.
        return ElectionView(view.role, Hold.HELD, now, _POLL)
    silent = (view.silent_for or 0.0) + waited
    if silent >= _GONE * before.ttl:
        return ElectionView(view.role, Hold.SILENT, now, silent)
    return view
