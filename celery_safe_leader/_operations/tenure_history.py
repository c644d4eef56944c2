"""Who led when, and why it ended: read from the history of an election."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from celery_safe_leader._operations.election_view import ElectionView, Hold
from celery_safe_leader._store.codec import shown
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["Ended", "HistoryEvent", "PastPause", "PastTenure", "pauses", "read_events", "tenures"]

_SILENT = "silent:"
"""How the reason of an election begins that followed a silence; the last renewal comes after."""
_PAGE = 250
"""Events of one request: a millisecond of Redis's time at most."""
_MOST = 5000
"""Events altogether. The stream is capped to about a thousand."""


@dataclass(frozen=True, slots=True)
class HistoryEvent:
    """One entry of the stream. What cannot be read is empty, or 0."""

    event: str
    """``elected``, ``restored``, ``resigned``, ``paused`` or ``resumed``."""
    holder: str
    """Candidate id; of a pause the person who asked for it."""
    token: int
    reason: str
    at_us: int
    """By Redis's clock: microseconds since 1970."""
    until_us: int = 0
    """End of a pause; 0 for none."""


class Ended(enum.Enum):
    """How a tenure ended; the value is what JSON shows."""

    NOT = "not"
    """It goes on, as far as is known."""
    HANDOVER = "handover"
    """The leader resigned: another could follow at once."""
    STOOD_DOWN = "stood-down"
    """The leader resigned since it could not do its work."""
    SILENCE = "silence"
    """The leader was no longer heard from: it crashed, hung, or was cut off."""
    UNKNOWN = "unknown"
    """One cannot tell yet."""


@dataclass(frozen=True, slots=True)
class PastTenure:
    """One stretch of one leader. Moments are microseconds since 1970 by Redis's clock."""

    holder: str
    token: int
    from_us: int | None
    """``None`` if the history no longer goes back to its election."""
    to_us: int | None
    """When it resigned; after a silence the last renewal, where that is known; else ``None``."""
    ended: Ended
    reason: str
    """The word with which it resigned."""
    next_us: int | None = None
    """When the next one was elected; ``None`` if nobody was yet."""

    @property
    def gap(self) -> float | None:
        """Seconds in which nobody led until the next one did; ``None`` if that is not known."""
        if self.to_us is None or self.next_us is None:
            return None
        return max(0.0, (self.next_us - self.to_us) / 1e6)


@dataclass(frozen=True, slots=True)
class PastPause:
    """One pause of the ledger."""

    from_us: int
    to_us: int | None
    """``None`` if it goes on, or has no end that is known."""
    by: str
    reason: str


def read_events(client: redis.Redis, keys: ElectionKeys) -> list[HistoryEvent]:
    """Return all events of an election, oldest first. Sends ``XRANGE`` in pieces.

    Raises:
        StoreError: Redis does not answer, or refuses.
    """
    caller: Any = client
    begin = "-"
    events: list[HistoryEvent] = []
    while len(events) < _MOST:
        try:
            page = caller.execute_command("XRANGE", keys.history, begin, "+", "COUNT", _PAGE)
        except (redis.RedisError, OSError) as exc:
            raise translate(keys.history, exc) from exc
        events += [_event(name, fields) for name, fields in page]
        if len(page) < _PAGE:
            break
        begin = f"({page[-1][0].decode()}"
    return events


def _event(name: bytes, fields: Mapping[bytes, bytes]) -> HistoryEvent:
    def text(field: bytes) -> str:
        return shown((fields or {}).get(field, b"").decode("utf-8", "backslashreplace"))

    def whole(field: bytes) -> int:
        digits = text(field)
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 18 else 0

    stamp = whole(b"at") or int(name.partition(b"-")[0])
    return HistoryEvent(
        text(b"event"),
        text(b"holder"),
        whole(b"token"),
        text(b"reason"),
        stamp * 1000,
        whole(b"until"),
    )


def tenures(events: Sequence[HistoryEvent], now: ElectionView | None) -> list[PastTenure]:
    """Return the tenures that the events tell of, oldest first.

    Args:
        events: Of one election, oldest first.
        now: What the election looks like after them, if it was looked at.
    """
    found: list[PastTenure] = []
    for event in events:
        if event.event == "elected":
            if found:
                found[-1] = _followed(found[-1], event)
            found.append(
                PastTenure(event.holder, event.token, event.at_us, None, Ended.UNKNOWN, "")
            )
        elif event.event == "restored" and (not found or found[-1].token != event.token):
            found.append(PastTenure(event.holder, event.token, None, None, Ended.UNKNOWN, ""))
        elif event.event == "resigned":
            if not found or found[-1].token != event.token:
                found.append(PastTenure(event.holder, event.token, None, None, Ended.UNKNOWN, ""))
            found[-1] = _resigned(found[-1], event)
    if found and found[-1].ended is Ended.UNKNOWN and now is not None:
        found[-1] = _as_it_looks(found[-1], now)
    return found


def _followed(before: PastTenure, event: HistoryEvent) -> PastTenure:
    if before.ended is not Ended.UNKNOWN:
        return replace(before, next_us=event.at_us)
    silent = event.reason.removeprefix(_SILENT) if event.reason.startswith(_SILENT) else ""
    is_known = silent.isascii() and silent.isdigit() and len(silent) < 18
    # What was seen of it last may be its election, which its own event has to the millisecond.
    to_us = max(int(silent), before.from_us or 0) if is_known else None
    return replace(before, ended=Ended.SILENCE, to_us=to_us, next_us=event.at_us)


def _resigned(tenure: PastTenure, event: HistoryEvent) -> PastTenure:
    word = event.reason.removeprefix("stood_down:")
    ended = Ended.HANDOVER if word == event.reason else Ended.STOOD_DOWN
    return replace(tenure, to_us=event.at_us, ended=ended, reason=word)


def _as_it_looks(tenure: PastTenure, now: ElectionView) -> PastTenure:
    record = now.record
    if record is None or record.token != str(tenure.token):
        return tenure
    if now.hold is Hold.HELD:
        return replace(tenure, ended=Ended.NOT)
    if now.hold is Hold.SILENT:
        return replace(tenure, ended=Ended.SILENCE, to_us=record.renewed_us)
    return tenure


def pauses(events: Sequence[HistoryEvent]) -> list[PastPause]:
    """Return the pauses that the events tell of, oldest first."""
    return list(_pauses(events))


def _pauses(events: Sequence[HistoryEvent]) -> Iterator[PastPause]:
    begun: HistoryEvent | None = None
    for event in events:
        if event.event in ("paused", "resumed") and begun is not None:
            yield _pause(begun, event.at_us)
            begun = None
        if event.event == "paused":
            begun = event
    if begun is not None:
        yield _pause(begun, None)


def _pause(begun: HistoryEvent, ended_us: int | None) -> PastPause:
    ends = [each for each in (ended_us, begun.until_us or None) if each is not None]
    return PastPause(begun.at_us, min(ends, default=None), begun.holder, begun.reason)
