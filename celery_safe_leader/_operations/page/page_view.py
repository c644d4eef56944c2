"""All that a page about one key shows, as text: the same that the commands show.

No framework, no template and no Celery: what answers HTTP is built on top. Texts come from Redis,
where anybody may have written anything: they are made plain here, and a template escapes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from celery_safe_leader._operations.election_view import Hold
from celery_safe_leader._operations.history_command import (
    HISTORY_HEAD,
    RoleHistory,
    history_row,
    timeline_of,
)
from celery_safe_leader._operations.output import clause, duration, moment, plain
from celery_safe_leader._operations.page.entry_pages import (
    EntryPage,
    PageQuery,
    UnsettledPage,
    read_entries,
    read_unsettled,
)
from celery_safe_leader._operations.presence_view import CandidateView
from celery_safe_leader._operations.runs_command import nobody_knows
from celery_safe_leader._operations.status_command import (
    NO_RECORD,
    OTHER_PLACE,
    ElectionStatus,
    KeyStatus,
    candidate_state,
    lease_lines,
    ledger_lines,
    pause_line,
    read_status,
    trouble_lines,
)
from celery_safe_leader._operations.target import NextMoment, Target, candidates_of
from celery_safe_leader._operations.tenure_history import HistoryEvent, pauses, tenures
from celery_safe_leader._operations.timeline import draw
from celery_safe_leader.errors import StoreError, StoreRefusedError

__all__ = [
    "ActionLine",
    "CandidateLine",
    "ElectionCard",
    "PageProblem",
    "PageReader",
    "PageView",
    "problem_of",
]

_AT_MOST_EVERY = 1.0
"""Seconds between two looks, however many browsers ask."""
_CANDIDATES, _TENURES, _ACTIONS = 100, 20, 50
"""So many are shown, the latest; the commands show all."""
_DONE = ("paused", "resumed", "imported", "renamed")
"""Events of what somebody did to the ledger."""
_ASKED = "requested"
"""How the reason of a resignation begins that somebody asked for; who comes after ``by``."""


@dataclass(frozen=True, slots=True)
class CandidateLine:
    """One candidate, as text."""

    id: str
    state: str
    """``leader``, ``standby``, ``former`` or ``silent``."""
    where: str
    runs: str
    """Which software."""
    since: str
    seen: str
    trouble: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ElectionCard:
    """One election, as text."""

    role: str
    """``beat``, ``worker`` or ``library``: fit for an id of HTML."""
    name: str
    state: str
    """A value of ``Hold``."""
    is_led: bool
    leader: str
    """Who leads and under which token, for one who is told of changes; empty if nobody is known."""
    headline: str
    details: tuple[str, ...]
    candidates: tuple[CandidateLine, ...]
    standbys: str
    """How many stand by; what right is missing to see it."""
    timeline: str
    """SVG, in which all text is escaped; empty if nobody has led."""
    history_head: tuple[str, ...]
    history: tuple[tuple[str, ...], ...]
    """The latest tenure first."""


@dataclass(frozen=True, slots=True)
class ActionLine:
    """What somebody did, as text."""

    at: str
    what: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class PageView:
    """All that is shown of a key."""

    key: str
    server: str
    at: str
    """When it was looked at, by Redis's clock."""
    pause: str
    """How long nothing is published, by whom and why; empty if it is not paused."""
    elections: tuple[ElectionCard, ...]
    nobody: str
    """Why there are no elections; empty if there are."""
    ledger: tuple[str, ...]
    missing: str
    """Rights that the Redis user lacks to tell more; empty if it has all."""
    actions: tuple[ActionLine, ...]
    """The latest first."""
    entries: EntryPage
    unsettled: UnsettledPage

    @property
    def leaders(self) -> str:
        """Who leads, in one line: what one is told who cannot see the page."""
        told = [f"{each.name}: {each.leader or each.headline}" for each in self.elections]
        return "; ".join([*(["paused"] if self.pause else []), *told]) or self.nobody


@dataclass(frozen=True, slots=True)
class PageProblem:
    """Why nothing can be shown."""

    title: str
    text: str
    is_right: bool
    """Whether it is a right that is missing, and not an answer."""


def problem_of(target: Target, error: StoreError) -> PageProblem:
    """Return what is said of an error of Redis: which server, and which right."""
    told = target.told(error)
    if isinstance(error, StoreRefusedError) and error.is_missing_right:
        advice = f"`{target.acl_command}` prints the rights that the Redis user needs."
        return PageProblem("A right is missing in Redis", f"{told}. {advice}", True)
    if isinstance(error, StoreRefusedError):
        return PageProblem("Redis refuses", told, False)
    return PageProblem("Redis does not answer", told, False)


class PageReader:
    """Reads what a page shows. Thread-safe; blocks for some ten requests.

    Args:
        target: Which key.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = threading.Lock()
        self._last: KeyStatus | StoreError | None = None
        self._read_at = 0.0

    @cached_property
    def _next_of(self) -> NextMoment:
        # Of an app with many entries it takes a while, and a process has one schedule.
        return self.target.next_moments() if self.target.next_moments else nobody_knows

    def read(self, query: PageQuery | None = None) -> PageView:
        """Look at the key.

        Args:
            query: Which entries to show; the first if it is ``None``.

        Raises:
            StoreError: Redis does not answer, or lets the user see nothing that matters.
        """
        status = self._status()
        now_us = status.server.now_us
        told = {
            due.entry: due.at_us
            for election in status.elections
            if election.work is not None
            for due in election.work.next
        }
        client = self.target.connect()
        try:
            entries = read_entries(
                client, self.target, query or PageQuery(), self._next_of, told, now_us
            )
            unsettled = read_unsettled(client, self.target, now_us)
        finally:
            client.close()
        missing = " ".join(f"+{name}" for name in status.server.missing)
        return PageView(
            plain(self.target.key),
            plain(self.target.server),
            moment(now_us),
            pause_line(status, status.pause) if status.pause is not None else "",
            tuple(_card(status, each) for each in status.elections),
            "" if status.elections else f"{NO_RECORD}; {OTHER_PLACE}",
            tuple(ledger_lines(status)),
            missing and f"the Redis user lacks {missing}; `{self.target.acl_command}` prints all",
            tuple(_actions(status)),
            entries,
            unsettled,
        )

    def forget(self) -> None:
        """Look anew at the next read, since something was done."""
        with self._lock:
            self._last = None

    def _status(self) -> KeyStatus:
        with self._lock:
            if self._last is None or time.monotonic() - self._read_at >= _AT_MOST_EVERY:
                # An error counts as well: else all who wait would try in turn, each to its timeout.
                try:
                    self._last = self._look()
                except StoreError as exc:
                    self._last = exc
                self._read_at = time.monotonic()
            found = self._last
        if isinstance(found, StoreError):
            raise found
        return found

    def _look(self) -> KeyStatus:
        status = read_status(self.target, None, wait=False)
        # Without Redis's clock only a second look tells whether the lease is renewed.
        unclear = any(
            each.view.hold is Hold.UNCLEAR and each.view.silent_for is None
            for each in status.elections
        )
        return read_status(self.target, None, wait=True) if unclear else status


def _card(status: KeyStatus, election: ElectionStatus) -> ElectionCard:
    view, record = election.view, election.view.record
    headline, *details = lease_lines(status, election)
    if (down := election.stood_down) is not None:
        details.append(
            f"last error: {plain(down.holder)} stood down at {moment(down.to_us)}: "
            f"{plain(down.reason)}"
        )
    is_led = view.hold is Hold.HELD and record is not None
    past = tenures(election.events, view)[-_TENURES:]
    first_us = past[0].from_us if past else None
    paused = [
        each for each in pauses(election.events) if first_us is None or each.from_us >= first_us
    ]
    history = RoleHistory(view.role, past, paused, status.server.now_us)
    candidates = election.candidates or ()
    keys = status.target.election(view.role)
    return ElectionCard(
        view.role,
        candidates_of(view.role).capitalize(),
        view.hold.value,
        is_led,
        f"{plain(record.holder)}, token {plain(record.token)}" if is_led and record else "",
        headline,
        tuple(details),
        tuple(_candidate_line(election, each) for each in candidates[:_CANDIDATES]),
        clause(len(election.standbys), "standby")
        if election.candidates is not None
        else f"unknown; the Redis user needs +hscan %R~{plain(keys.presences)} to see them",
        draw(timeline_of(status.target, history), f"-{view.role}") if past else "",
        HISTORY_HEAD[1:],
        tuple(history_row(history, each)[1:] for each in reversed(past)),
    )


def _candidate_line(election: ElectionStatus, each: CandidateView) -> CandidateLine:
    where = " ".join(
        part for part in (each.node, each.host, f"pid {each.pid}" if each.pid else "") if part
    )
    beat = {True: "with its beat", False: "its beat does NOT run", None: ""}[each.has_beat]
    software = (each.scheduler, f"Celery {each.celery}" if each.celery else "", each.release, beat)
    lasted = None if each.since_us is None else (each.seen_us - each.since_us) / 1e6
    return CandidateLine(
        plain(each.id),
        candidate_state(election, each),
        plain(where),
        plain(", ".join(part for part in software if part)),
        "?" if lasted is None else duration(lasted),
        f"{duration(each.silent_for)} ago",
        tuple(trouble_lines(each)),
    )


def _actions(status: KeyStatus) -> Iterator[ActionLine]:
    events = [each for election in status.elections for each in election.events]
    events.sort(key=lambda each: each.at_us, reverse=True)
    shown = [line for line in map(_action_line, events) if line is not None]
    yield from shown[:_ACTIONS]


def _action_line(event: HistoryEvent) -> ActionLine | None:
    at, who = moment(event.at_us), plain(event.holder)
    if event.event == "resigned":
        if not event.reason.startswith(_ASKED):
            return None
        by = event.reason.removeprefix(_ASKED).removeprefix(" by ")
        return ActionLine(at, "resigned on request", plain(by), f"{who}, token {event.token}")
    if event.event not in _DONE:
        return None
    what = event.event
    if event.event == "paused" and event.until_us:
        what += f" until {moment(event.until_us)}"
    return ActionLine(at, what, who, plain(event.reason, 300))
