"""The candidates of an election, as they say of themselves, and when each was seen last.

Anybody who may write to Redis could have written any of it: what has not the expected shape is not
known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from celery_safe_leader._store.codec import shown
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["CandidateView", "Due", "WorkView", "read_candidates"]

_PIECE = 100
"""Fields of one request, so that none keeps Redis busy for a millisecond."""
_SILENT = 3.0
"""Of a candidate's ttl, or its longer wait: so long without a sign of life, of which one is due."""
_LIFE = 600.0
"""Seconds, or ten ttls: who has been silent for longer is not shown, and removed by the others."""
_LONGEST = 16_384
"""Bytes of a value that is read at all."""
_STOOD = 60.0
"""Seconds after which a loop that has not turned looks stuck; a turn takes about one."""


@dataclass(frozen=True, slots=True)
class Due:
    """A moment to come."""

    entry: str
    at_us: int


@dataclass(frozen=True, slots=True)
class WorkView:
    """What the leader's tenure did, as it said last; ``None`` for what it did not say."""

    entries: int | None = None
    unsettled: int | None = None
    published: int | None = None
    given_up: int | None = None
    missed: int | None = None
    lateness: float | None = None
    """Seconds, of the latest run that was published last."""
    way: str | None = None
    next: tuple[Due, ...] = ()
    """The next moments, the earliest first."""
    consumes: bool | None = None
    """Of a worker: whether it consumes the leader queue."""
    running: int | None = None
    """Of a worker: leader-only tasks."""


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One candidate; ``None`` for what is not known."""

    id: str
    seen_us: int
    """When it gave a sign of life last, by Redis's clock."""
    silent_for: float | None
    """Seconds since then; ``None`` if Redis's clock is not known."""
    host: str | None
    pid: int | None
    release: str | None
    celery: str | None
    scheduler: str | None
    node: str | None
    """Of a worker: its name."""
    has_beat: bool | None
    """Of a worker: whether its embedded beat runs, if it has one."""
    ttl: float | None
    every: float | None
    """Seconds in which it gives a sign of life."""
    since_us: int | None
    token: int | None
    """Its fencing token, if it led when it was seen."""
    error: str | None
    error_us: int | None
    stands_for: float | None
    """Seconds for which its loop had not turned when it was seen."""
    work: WorkView | None

    @property
    def is_silent(self) -> bool:
        """Whether it has given no sign of life for three ttls.

        It has ended, stands still or is cut off.
        """
        if self.silent_for is None:
            return False
        return self.silent_for > _SILENT * (self.every or self.ttl or _LIFE / 10)

    @property
    def is_stuck(self) -> bool:
        """Whether it takes part, and does not work."""
        return self.stands_for is not None and self.stands_for > _STOOD

    @property
    def is_present(self) -> bool:
        """Whether it gave a sign of life not long ago."""
        return not self.is_silent


def read_candidates(
    client: redis.Redis, keys: ElectionKeys, now_us: int | None, pattern: str = ""
) -> list[CandidateView]:
    """Return the candidates of an election, those that were seen last first.

    Args:
        client: For their Redis.
        keys: Of the election.
        now_us: Redis's clock; ``None`` if it is not known.
        pattern: Of the ids that are meant, as Redis's ``MATCH`` has it; empty for all.

    Raises:
        StoreError: Redis does not answer, or refuses.
    """
    found: dict[str, CandidateView] = {}
    for field, value in _scan(client, keys.presences, pattern):
        name = field.decode("utf-8", "surrogateescape")
        candidate = _candidate(name, value, now_us)
        if candidate is not None:
            found[name] = candidate
    return sorted(found.values(), key=lambda each: (-each.seen_us, each.id))


def _scan(client: Any, name: str, pattern: str) -> Iterator[tuple[bytes, bytes]]:
    cursor, match = 0, ("MATCH", pattern) if pattern else ()
    while True:
        try:
            reply = client.execute_command("HSCAN", name, cursor, *match, "COUNT", _PIECE)
        except (redis.RedisError, OSError) as exc:
            if "WRONGTYPE" in str(exc):
                return  # somebody else's key; candidates replace it
            raise translate(name, exc) from exc
        cursor, fields = int(reply[0]), reply[1] or {}
        yield from fields.items()
        if not cursor:
            return


def _candidate(name: str, value: bytes, now_us: int | None) -> CandidateView | None:
    stamp, _, text = value[:_LONGEST].partition(b" ")
    if not (stamp.isdigit() and len(stamp) < 18):
        return None
    seen_us = int(stamp)
    said = _object(text)
    ttl = _number(said.get("ttl"))
    silent = None if now_us is None else (now_us - seen_us) / 1e6
    every = _number(said.get("every"))
    if silent is not None and abs(silent) > max(_LIFE, 10 * max(ttl or 0.0, every or 0.0)):
        return None
    age, error = _number(said.get("age")), _text(said.get("error"))
    error_age = _number(said.get("error_age"))
    work = said.get("work")
    return CandidateView(
        id=shown(name),
        seen_us=seen_us,
        silent_for=None if silent is None else max(0.0, silent),
        host=_text(said.get("host")),
        pid=_whole(said.get("pid")),
        release=_text(said.get("release")),
        celery=_text(said.get("celery")),
        scheduler=_text(said.get("scheduler")),
        node=_text(said.get("node")),
        has_beat=_flag(said.get("beat")),
        ttl=ttl,
        every=every,
        since_us=_before(seen_us, age),
        token=_whole(said.get("token")),
        error=error,
        error_us=_before(seen_us, error_age) if error else None,
        stands_for=_number(said.get("ticked")),
        work=_work(work) if isinstance(work, Mapping) else None,
    )


def _work(said: Mapping[str, Any]) -> WorkView:
    named = said.get("next")
    return WorkView(
        entries=_whole(said.get("entries")),
        unsettled=_whole(said.get("unsettled")),
        published=_whole(said.get("published")),
        given_up=_whole(said.get("given_up")),
        missed=_whole(said.get("missed")),
        lateness=_number(said.get("lateness"), least=-1e9),
        way=_text(said.get("way")),
        next=tuple(_moments(named)) if isinstance(named, list) else (),
        consumes=_flag(said.get("consumes")),
        running=_whole(said.get("running")),
    )


def _moments(named: Sequence[Any]) -> Iterator[Due]:
    for pair in named[:10]:
        if isinstance(pair, list) and len(pair) == 2:
            at, entry = _whole(pair[0]), _text(pair[1])
            if at is not None and entry is not None:
                yield Due(entry, at)


def _object(text: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 2**63 else None


def _number(value: object, least: float = 0.0) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if least <= value <= 1e12 else None


def _before(moment_us: int, seconds: float | None) -> int | None:
    return None if seconds is None else moment_us - round(seconds * 1e6)
