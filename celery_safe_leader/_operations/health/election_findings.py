"""How the elections of a key and its ledger stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator

from celery_safe_leader._operations.election_view import Hold
from celery_safe_leader._operations.health.finding import Finding, bad, doubtful, good
from celery_safe_leader._operations.output import clause, duration, moment, plain
from celery_safe_leader._operations.status_command import (
    NO_RECORD,
    OTHER_PLACE,
    ElectionStatus,
    KeyStatus,
)

__all__ = ["election_findings"]

_NOBODY = {
    Hold.SILENT: "its last leader fell silent",
    Hold.RESIGNED: "its last leader resigned",
    Hold.VACANT: "this is the first start, or Redis lost its record, and candidates wait in case "
    "somebody leads",
}
_SHOWN = 3


def election_findings(status: KeyStatus) -> Iterator[Finding]:
    """Return what is to be said of each election that has a record, and of the ledger."""
    if not status.elections:
        yield bad(
            "elections",
            f"{NO_RECORD}; {OTHER_PLACE}",
            "start a beat with -S leader, or a worker with install(app); check leader_key and "
            "leader_url if one runs",
        )
    for election in status.elections:
        yield from _leader(election)
        yield from _candidates(election)
        yield from _releases(election)
        yield from _way(election)
    yield from _ledger(status)


def _leader(election: ElectionStatus) -> Iterator[Finding]:
    view, subject = election.view, f"{election.view.role} leader"
    holder = plain(view.record.holder) if view.record else ""
    if view.hold is Hold.HELD:
        yield good(subject, f"{holder}, renewed {duration(view.silent_for)} ago")
    elif view.hold is Hold.UNCLEAR:
        yield doubtful(subject, f"{holder} has not renewed for a while", "look again")
    else:
        why = _NOBODY.get(view.hold, "no record")
        yield bad(
            subject,
            f"nobody leads: {why}",
            "start one, or see the logs of those that run; an election that is no longer used is "
            "forgotten after 7 days",
        )
    if (down := election.stood_down) is not None:
        yield doubtful(
            subject,
            f"{plain(down.holder)} stood down at {moment(down.to_us)}: {plain(down.reason)}",
            "see its log: it led and could not do its work",
        )


def _candidates(election: ElectionStatus) -> Iterator[Finding]:
    subject = f"{election.view.role} candidates"
    if election.candidates is None:
        yield doubtful(
            subject, "the Redis user may not see who takes part", "grant what `leader acl` prints"
        )
        return
    stuck = [each for each in election.candidates if each.is_present and each.is_stuck]
    if stuck:
        yield bad(
            subject,
            f"{_names(each.id for each in stuck)}: its loop has not turned for "
            f"{duration(stuck[0].stands_for)}",
            "see its log and its stack (py-spy dump); restart it",
        )
    silent = [each for each in election.candidates if each.is_silent]
    if silent:
        yield doubtful(
            subject,
            f"no sign of life of {_names(each.id for each in silent)} for "
            f"{duration(silent[0].silent_for)}",
            "nothing if it was ended; else see whether it stands still or is cut off",
        )
    failing = [each for each in election.candidates if each.is_present and each.error]
    if failing:
        first = failing[0]
        yield doubtful(
            subject,
            f"last error of {plain(first.id)}, at {moment(first.error_us)}: "
            f"{plain(first.error or '', 200)}",
            "nothing if it was once; else see its log",
        )
    standbys = len(election.standbys)
    if election.view.hold is Hold.HELD and not standbys:
        yield doubtful(
            subject,
            "no standby: if the leader dies, nobody takes over",
            "start another one, on another machine",
        )
    elif standbys:
        yield good(subject, clause(standbys, "standby"))


def _releases(election: ElectionStatus) -> Iterator[Finding]:
    candidates = [each for each in election.candidates or () if each.is_present]
    subject = f"{election.view.role} releases"
    ours = Counter(each.release or "unknown" for each in candidates)
    celery = Counter(each.celery for each in candidates if each.celery)
    if election.view.hold is Hold.HELD and candidates and election.leader is None:
        yield doubtful(
            subject,
            "the leader says nothing of itself: it is of an older release, was elected just now, "
            "or lacks a right",
            "nothing while you upgrade; else update it",
        )
    for name, counted in (("this package", ours), ("Celery", celery)):
        if len(counted) > 1:
            shown = ", ".join(f"{plain(each, 40)} ({n})" for each, n in counted.most_common(_SHOWN))
            yield doubtful(
                subject, f"several releases of {name}: {shown}", "nothing while you upgrade"
            )
    if len(ours) == 1 and len(celery) <= 1:
        shown = ", ".join([*ours, *(f"Celery {each}" for each in celery)])
        yield good(subject, f"all the same: {plain(shown, 80)}")


def _way(election: ElectionStatus) -> Iterator[Finding]:
    if (way := election.way) is not None:
        why = f" ({plain(way.reason, 200)})" if way.reason else ""
        yield good("publication", f"{way.way.value}{why}")


def _ledger(status: KeyStatus) -> Iterator[Finding]:
    ledger = status.ledger
    if ledger is None:
        yield doubtful("ledger", "the Redis user may not see it", "grant what `leader acl` prints")
        return
    if not ledger.owner:
        if ledger.entries or ledger.unsettled:
            yield bad(
                "ledger",
                "of a format that this release cannot read",
                "use the release that wrote it",
            )
        return
    held = {each.view.role for each in status.elections if each.view.hold is Hold.HELD}
    if held and ledger.owner not in held:
        yield doubtful(
            "ledger",
            f"it belongs to the election of {ledger.owner}s, in which nobody leads",
            "nothing if no beat is to run; stand-alone beats and `worker -B` must not be mixed",
        )
    if status.pause is not None:
        yield doubtful(
            "ledger",
            f"PAUSED (pause #{status.pause.number}): nothing is published",
            "run `leader resume` when it is time",
        )
    yield good(
        "ledger",
        f"{clause(ledger.entries, 'entry', 'entries')}, "
        f"{clause(ledger.unsettled, 'run')} on the way or to be settled",
    )


def _names(ids: Collection[str] | Iterator[str]) -> str:
    names = [plain(each) for each in ids]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
