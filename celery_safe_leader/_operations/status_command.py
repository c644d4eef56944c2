"""``leader status``: who was seen to lead each election of a key, and how its ledger stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import redis

from celery_safe_leader._ledger.hash_sentinel import Pause
from celery_safe_leader._ledger.way import NotedWay, Way, read_way
from celery_safe_leader._operations.election_view import (
    ElectionView,
    Hold,
    ServerView,
    look_at,
    read_server,
)
from celery_safe_leader._operations.ledger_view import LedgerView, pause_in_force, read_ledger
from celery_safe_leader._operations.output import (
    clause,
    duration,
    moment,
    plain,
    print_json,
    utc,
)
from celery_safe_leader._operations.presence_view import (
    CandidateView,
    WorkView,
    read_candidates,
)
from celery_safe_leader._operations.target import (
    LIBRARY,
    ROLES,
    Target,
    optional,
    pass_target,
)
from celery_safe_leader._operations.tenure_history import (
    Ended,
    HistoryEvent,
    PastTenure,
    read_events,
    tenures,
)
from celery_safe_leader._store.keys import BEAT, WORKER

__all__ = [
    "NO_RECORD",
    "OTHER_PLACE",
    "ElectionStatus",
    "KeyStatus",
    "candidate_state",
    "exit_code",
    "lease_lines",
    "ledger_lines",
    "lines",
    "pause_line",
    "read_status",
    "status",
    "trouble_lines",
]

_NAME = 11
"""Width of the first column."""
_RECENT_US = 3_600_000_000
"""For so long the last error of a leader is shown."""
_NEXT = 3
"""Moments to come that people are shown; JSON has all ten."""
_MOST = 20
"""Candidates that people are shown."""
NO_RECORD = "no record: nobody has taken part since Redis was emptied"
OTHER_PLACE = "or the key, the database or the prefix is another one"
_MAY_LEAD = (Hold.HELD, Hold.UNCLEAR)
_OVER_A_STORE = ("LeaderDatabaseScheduler", "LeaderRedBeatScheduler")
"""Schedulers without a ledger: their leaders record no way of publication there."""
_PEOPLE = {BEAT: "beat", WORKER: "worker", LIBRARY: "candidate"}


@dataclass(frozen=True)
class ElectionStatus:
    """One election, with what else is known of it."""

    view: ElectionView
    since_us: int | None
    """When the holder was elected."""
    way: NotedWay | None
    """Which way its runs take, if it has noted one in this tenure."""
    way_refused: bool
    """Whether the Redis user may not see the note."""
    candidates: Sequence[CandidateView] | None
    """Who takes part, as they say; ``None`` if the Redis user may not see it."""
    stood_down: PastTenure | None
    """The last tenure whose leader stood down since it could not do its work, if not long ago."""
    resigned_us: Mapping[str, int]
    """When each candidate resigned last, as far as the history goes."""
    events: Sequence[HistoryEvent] = ()
    """Its history, oldest first; none if the Redis user may not see it."""

    @property
    def leader(self) -> CandidateView | None:
        """The holder, if it is alive and says something of itself in this tenure."""
        record = self.view.record
        if record is None or self.view.hold is not Hold.HELD:
            return None
        return next((each for each in self.candidates or () if each.id == record.holder), None)

    @property
    def work(self) -> WorkView | None:
        """What its tenure did, as it said last."""
        leader, record = self.leader, self.view.record
        if leader is None or record is None or str(leader.token) != record.token:
            return None
        return leader.work

    @property
    def standbys(self) -> Sequence[CandidateView]:
        """Those that take part and do not hold the lease."""
        return [each for each in self._others if not self.has_led(each)]

    @property
    def former(self) -> Sequence[CandidateView]:
        """Those that led when they were seen last or since then, and lead no more.

        One that goes on says within a ttl that it stands by; one that was ended says nothing.
        """
        return [each for each in self._others if self.has_led(each)]

    def has_led(self, candidate: CandidateView) -> bool:
        """Return whether a candidate led at its last sign of life, or resigned since then."""
        resigned_us = self.resigned_us.get(candidate.id, 0)
        return candidate.token is not None or resigned_us > candidate.seen_us

    @property
    def _others(self) -> Sequence[CandidateView]:
        return [
            each for each in self.candidates or () if each.is_present and not self.may_hold(each)
        ]

    def may_hold(self, candidate: CandidateView) -> bool:
        """Return whether a candidate may hold the lease now."""
        record, hold = self.view.record, self.view.hold
        return record is not None and hold in _MAY_LEAD and candidate.id == record.holder


@dataclass(frozen=True)
class KeyStatus:
    """All that one look shows."""

    target: Target
    server: ServerView
    elections: Sequence[ElectionStatus]
    """Those that were asked for; without a choice those that have a record."""
    ledger: LedgerView | None
    """``None`` if the Redis user may not see it."""
    pause_event: HistoryEvent | None
    """Who paused the ledger, when and why, if the history says so."""

    @property
    def pause(self) -> Pause | None:
        """The pause that is in force."""
        return pause_in_force(self.ledger.pause, self.server.now_us) if self.ledger else None


@click.command()
@click.option("--role", type=click.Choice(ROLES), help="Show this election alone.")
@click.option("--workers", is_flag=True, help="The same as --role worker.")
@click.option(
    "--no-wait", is_flag=True, help="Look once; exit with 2 if that does not tell who leads."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_target
def status(target: Target, role: str | None, workers: bool, no_wait: bool, as_json: bool) -> int:
    """Show who leads, since when, and how the ledger stands.

    Shows each election of the key in which somebody has taken part. Only reads. Where one look
    does not tell whether the holder is alive, it watches the record for up to its ttl.

    Exits with 0 if the holder of each election that is shown was seen to be alive, with 1 if
    nobody leads one of them or nobody ever took part, and with 2 if that cannot be told.
    """
    chosen = WORKER if workers else role
    found = read_status(target, chosen, wait=not no_wait)
    if as_json:
        print_json("status", found.server.now_us, _as_json(found))
    else:
        for line in lines(found):
            click.echo(line)
    return exit_code(found)


def read_status(target: Target, role: str | None, *, wait: bool) -> KeyStatus:
    """Look at a key.

    Args:
        target: Which key.
        role: One of its elections; ``None`` for all that have a record.
        wait: Whether to look twice where it is necessary.

    Raises:
        StoreError: Redis does not answer, or refuses all that matters.
    """
    client = target.connect()
    try:
        server = read_server(client)
        views = look_at(client, target, (role,) if role else target.roles, server, wait=wait)
        if role is None:
            views = [view for view in views if view.hold is not Hold.ABSENT]
        ledger, _ = read_ledger(client, target.ledger)
        owner = ledger.owner if ledger else ""
        histories = {view.role: _history(client, target, view.role) for view in views}
        told = histories.get(owner) or []
        marks = [each for each in told if each.event in ("paused", "resumed")]
        event = marks[-1] if marks and marks[-1].event == "paused" else None
        elections = [
            _election(client, target, view, histories[view.role], server.now_us) for view in views
        ]
        return KeyStatus(target, server, elections, ledger, event)
    finally:
        client.close()


def _history(client: redis.Redis, target: Target, role: str) -> list[HistoryEvent]:
    return optional(lambda: read_events(client, target.election(role)))[0] or []


def _election(
    client: redis.Redis,
    target: Target,
    view: ElectionView,
    events: list[HistoryEvent],
    now_us: int | None,
) -> ElectionStatus:
    token = view.record.token if view.record else ""
    since = [each.from_us for each in tenures(events, None) if str(each.token) == token]
    way, refused = None, ""
    if view.hold is Hold.HELD and view.role != LIBRARY:
        noted, refused = optional(lambda: [read_way(client, target.election(view.role))])
        if noted and noted[0] is not None and str(noted[0].token) == token:
            way = noted[0]
    down = [each for each in tenures(events, None) if each.ended is Ended.STOOD_DOWN]
    recent = [each for each in down if now_us is None or now_us - (each.to_us or 0) < _RECENT_US]
    last = recent[-1] if recent else None
    keys = target.election(view.role)
    candidates, _ = optional(lambda: read_candidates(client, keys, now_us))
    resigned = {each.holder: each.at_us for each in events if each.event == "resigned"}
    return ElectionStatus(
        view, since[-1] if since else None, way, bool(refused), candidates, last, resigned, events
    )


def exit_code(status: KeyStatus) -> int:
    """Return 0 if the holders of all elections shown are alive, 1 if not, 2 if nobody can tell."""
    holds = {each.view.hold for each in status.elections}
    if not holds or holds - {Hold.HELD, Hold.UNCLEAR}:
        return 1
    return 2 if Hold.UNCLEAR in holds else 0


# For people


def lines(status: KeyStatus) -> Iterator[str]:
    """Return what is shown to people, without line ends."""
    target, now_us = status.target, status.server.now_us
    when = f", {moment(now_us)}" if now_us is not None else ""
    yield f"{plain(target.key)} at {plain(target.server)}{when}"
    if status.pause is not None:
        yield _row("PAUSED", pause_line(status, status.pause))
    if not status.elections:
        yield _row("", f"{NO_RECORD}; {OTHER_PLACE}")
    for election in status.elections:
        yield from _rows(election.view.role, _election_lines(status, election))
        if (down := election.stood_down) is not None:
            when = moment(down.to_us) if down.to_us else "an unknown time"
            what = f"{plain(down.holder)} stood down at {when}: {plain(down.reason)}"
            yield _row("", f"last error: {what}; its log says more")
    yield from _rows("ledger", ledger_lines(status))
    if status.server.missing:
        needed = " ".join(f"+{name}" for name in status.server.missing)
        yield _row(
            "rights",
            f"the Redis user lacks {needed}, so each look takes up to a ttl; "
            f"`{target.acl_command}` prints all rights",
        )


def _row(name: str, text: str) -> str:
    return f"{name:<{_NAME}}{text}"


def _rows(name: str, texts: Iterator[str]) -> Iterator[str]:
    for text in texts:
        yield _row(name, text)
        name = ""


def pause_line(status: KeyStatus, pause: Pause) -> str:
    """Return how long nothing is published, who wanted that, and why."""
    now_us = status.server.now_us
    end = "until it is resumed"
    if pause.until_us:
        end = f"until {moment(pause.until_us)}"
        if now_us is not None:
            end += f" ({duration((pause.until_us - now_us) / 1e6)} more)"
    who = ""
    if (event := status.pause_event) is not None:
        why = f": {plain(event.reason)}" if event.reason else ""
        who = f", by {plain(event.holder)} at {moment(event.at_us)}{why}"
    return f"nothing is published {end} (pause #{pause.number}{who})"


def _election_lines(status: KeyStatus, election: ElectionStatus) -> Iterator[str]:
    yield from lease_lines(status, election)
    yield from _candidate_lines(status, election)


def lease_lines(status: KeyStatus, election: ElectionStatus) -> Iterator[str]:
    """Return what is said of the lease and of the tenure; the first line is the answer."""
    view = election.view
    record, who = view.record, _PEOPLE[view.role]
    if record is None:
        yield f"no record: no {who} has taken part since Redis was emptied; {OTHER_PLACE}"
        return
    holder = f"{plain(record.holder)} (token {plain(record.token)}, ttl {record.ttl:g} s)"
    if view.hold is Hold.VACANT:
        yield f"nobody leads yet; the {who}s wait in case a leader is still running"
    elif view.hold is Hold.RESIGNED:
        yield f"nobody leads; {holder} resigned"
    elif view.hold is Hold.SILENT:
        yield (
            f"nobody leads; {holder} has not been heard from for {duration(view.silent_for)}, "
            f"which is more than its ttl. If {who}s stand by, one takes over now; if not, start one"
        )
    elif view.hold is Hold.UNCLEAR:
        ago = f" for {duration(view.silent_for)}" if view.silent_for is not None else ""
        yield f"not clear; {holder} has not been heard from{ago}, and one look does not tell more"
    else:
        yield f"led by {holder}"
        yield from _held(status, election)


def _held(status: KeyStatus, election: ElectionStatus) -> Iterator[str]:
    view, now_us = election.view, status.server.now_us
    if election.since_us is not None:
        so_far = f", for {duration((now_us - election.since_us) / 1e6)}" if now_us else ""
        yield f"since {moment(election.since_us)}{so_far}"
    yield (
        f"renewed {duration(view.silent_for)} ago; if it renews no more, it stops leading within "
        f"{duration(view.may_lead_for)}"
    )
    if way := _way(status.target, election):
        yield f"publication: {way}"
    if (work := election.work) is not None:
        leader = election.leader
        yield from _work_lines(work, now_us, None if leader is None else leader.silent_for)


def _work_lines(
    work: WorkView, now_us: int | None, silent_for: float | None = None
) -> Iterator[str]:
    if work.consumes is not None:
        consumes = "consumes" if work.consumes else "does NOT consume"
        yield f"{consumes} the leader queue; {clause(work.running, 'leader-only task')} running"
    if work.published is None:
        return
    late = f", the latest {duration(work.lateness)} late" if work.lateness is not None else ""
    more = [
        clause(count, "run") + " " + what
        for count, what in ((work.missed, "missed"), (work.given_up, "that could not be built"))
        if count
    ]
    as_of = "" if silent_for is None else f", as of {duration(silent_for)} ago"
    yield "; ".join([f"this tenure{as_of}: {clause(work.published, 'run')} published{late}", *more])
    if work.next:
        due = (f"{plain(each.entry, 40)} {_time(each.at_us, now_us)}" for each in work.next[:_NEXT])
        yield f"next: {', '.join(due)}"


def _time(at_us: int, now_us: int | None) -> str:
    """Return when an entry is due: the time alone if that is today in UTC, as the whole page is.

    It is as of the leader's last sign of life, so a moment that has passed since is ``due``: an
    entry of a short interval would never be seen else.
    """
    shown = moment(at_us).removesuffix(" UTC")
    if now_us is None:
        return shown
    if at_us < now_us:
        return "due"
    is_today = shown[:10] == moment(now_us)[:10]
    return shown[-8:] if is_today else shown


def _candidate_lines(status: KeyStatus, election: ElectionStatus) -> Iterator[str]:
    candidates, target = election.candidates, status.target
    if candidates is None:
        keys = target.election(election.view.role)
        yield (
            f"candidates: unknown; the Redis user needs +hscan %R~{plain(keys.presences)} to see "
            f"them, and `{target.acl_command}` prints all its rights"
        )
        return
    standbys = election.standbys
    leader = election.leader
    if leader is not None and (leader.error or leader.is_stuck):
        yield from trouble_lines(leader)
    if candidates or election.view.hold is Hold.HELD:
        yield clause(len(standbys), "standby") if standbys else "no standby"
    for each in standbys[:_MOST]:
        yield f"  {_candidate(each)}"
        for line in trouble_lines(each):
            yield f"  {line}"
    for each in election.former[:_MOST]:
        yield (
            f"  {plain(each.id)}: led, and leads no more; no sign of life for "
            f"{duration(each.silent_for)}: whether it stands by or has ended is not known yet"
        )
    silent = [each for each in candidates if each.is_silent]
    for each in silent[:_MOST]:
        yield (
            f"  {plain(each.id)}: no sign of life for {duration(each.silent_for)}; it has ended, "
            "stands still or is cut off"
        )
    left = max(0, len(standbys) - _MOST) + max(0, len(silent) - _MOST)
    if left:
        yield f"  … and {left:,} more; --json lists all"


def _candidate(each: CandidateView) -> str:
    parts = [plain(each.id)]
    if each.node:
        parts.append(plain(each.node))
    if each.scheduler:
        parts.append(plain(each.scheduler))
    if each.has_beat is not None:
        parts.append("with its beat" if each.has_beat else "its beat does NOT run")
    if each.celery:
        parts.append(f"Celery {plain(each.celery)}")
    if each.since_us is not None:
        parts.append(f"for {duration((each.seen_us - each.since_us) / 1e6)}")
    parts.append(f"seen {duration(each.silent_for)} ago")
    return ", ".join(parts)


def trouble_lines(each: CandidateView) -> Iterator[str]:
    """Return what is wrong with a candidate, as it says itself."""
    if each.is_stuck:
        stood = duration(each.stands_for)
        yield f"{plain(each.id)} looks STUCK: its loop has not turned for {stood}"
    if each.error and each.error_us is not None:
        yield f"{plain(each.id)}: last error at {moment(each.error_us)}: {plain(each.error, 200)}"


def _way(target: Target, election: ElectionStatus) -> str:
    """Return which way the runs of a tenure take; empty if no beat could have noted one."""
    if election.view.role == LIBRARY:
        return ""
    if election.way is not None:
        is_transactional = election.way.way is Way.TRANSACTIONAL
        why = "" if is_transactional or not election.way.reason else f" ({election.way.reason})"
        return plain(f"{election.way.way.value}{why}", 300)
    keys = target.election(election.view.role)
    if election.way_refused:
        return (
            f"unknown; the Redis user needs +get and %R~{plain(keys.publication)} to see it, and "
            f"`{target.acl_command}` prints all its rights"
        )
    if election.view.role == WORKER:
        return ""
    if election.leader is not None and election.leader.scheduler in _OVER_A_STORE:
        return (
            f"by {election.leader.scheduler}: it sends each run, and notes it in its own store "
            "directly afterwards"
        )
    return (
        "unknown; this leader has noted none: it has just been elected, uses another scheduler, or "
        "is of an older release"
    )


def ledger_lines(status: KeyStatus) -> Iterator[str]:
    """Return what is said of the ledger."""
    ledger = status.ledger
    if ledger is None:
        names = status.target.ledger
        yield (
            f"unknown; the Redis user needs +hget +hlen %R~{plain(names.runs)} "
            f"%R~{plain(names.pending)} to see it, and `{status.target.acl_command}` prints all "
            "its rights"
        )
    elif not ledger.owner:
        if ledger.entries or ledger.unsettled:
            yield "of a format that this release cannot read"
        else:
            yield "none yet"
    else:
        paused = "PAUSED" if status.pause is not None else "not paused"
        entries = clause(ledger.entries, "entry", "entries")
        yield f"{entries}, {clause(ledger.unsettled, 'run')} on the way or to be settled; {paused}"


# For programs


def _as_json(status: KeyStatus) -> dict[str, Any]:
    return {
        "key": status.target.key,
        "server": status.target.server,
        "elections": [_election_json(status, each) for each in status.elections],
        "ledger": _ledger_json(status),
        "missing_rights": list(status.server.missing),
    }


def _election_json(status: KeyStatus, election: ElectionStatus) -> dict[str, Any]:
    view = election.view
    record, now_us = view.record, status.server.now_us
    silent, way, down = view.silent_for, election.way, election.stood_down
    renewed = None if silent is None or now_us is None else now_us - round(silent * 1e6)
    return {
        "role": view.role,
        "state": view.hold.value,
        "holder": (record.holder or None) if record else None,
        "token": int(record.token) if record and record.token.isdigit() else None,
        "ttl": record.ttl if record else None,
        "since": utc(election.since_us),
        "renewed": utc(renewed),
        "may_lead_for": view.may_lead_for,
        "publication": {"way": way.way.value, "reason": way.reason or None} if way else None,
        "last_error": down
        and {"holder": down.holder, "at": utc(down.to_us), "reason": down.reason},
        "work": _work_json(election),
        "standbys": None if election.candidates is None else len(election.standbys),
        "candidates": None
        if election.candidates is None
        else [_candidate_json(election, each) for each in election.candidates],
    }


def _work_json(election: ElectionStatus) -> dict[str, Any] | None:
    work, leader = election.work, election.leader
    if work is None or leader is None:
        return None
    return {
        "at": utc(leader.seen_us),
        "entries": work.entries,
        "unsettled": work.unsettled,
        "published": work.published,
        "missed": work.missed,
        "given_up": work.given_up,
        "lateness": work.lateness,
        "publication": work.way,
        "next": [{"entry": each.entry, "at": utc(each.at_us)} for each in work.next],
        "consumes": work.consumes,
        "running": work.running,
    }


def candidate_state(election: ElectionStatus, each: CandidateView) -> str:
    """Return ``leader``, ``standby``, ``former`` (it led, and said nothing since) or ``silent``."""
    leader = election.leader
    if leader is not None and each.id == leader.id:
        return "leader"
    if each.is_silent:
        return "silent"
    return "former" if election.has_led(each) and not election.may_hold(each) else "standby"


def _candidate_json(election: ElectionStatus, each: CandidateView) -> dict[str, Any]:
    return {
        "id": each.id,
        "state": candidate_state(election, each),
        "stuck": each.is_stuck,
        "host": each.host,
        "pid": each.pid,
        "release": each.release,
        "celery": each.celery,
        "scheduler": each.scheduler,
        "node": each.node,
        "embedded_beat_runs": each.has_beat,
        "ttl": each.ttl,
        "since": utc(each.since_us),
        "seen": utc(each.seen_us),
        "last_error": each.error and {"error": each.error, "at": utc(each.error_us)},
    }


def _ledger_json(status: KeyStatus) -> dict[str, Any] | None:
    ledger, pause, event = status.ledger, status.pause, status.pause_event
    if ledger is None:
        return None
    paused = pause and {
        "number": pause.number,
        "until": utc(pause.until_us) if pause.until_us else None,
        "since": utc(event.at_us) if event else None,
        "by": event.holder if event else None,
        "reason": (event.reason or None) if event else None,
    }
    return {
        "election": ledger.owner or None,
        "entries": ledger.entries,
        "unsettled": ledger.unsettled,
        "paused": pause is not None,
        "pause": paused,
    }
