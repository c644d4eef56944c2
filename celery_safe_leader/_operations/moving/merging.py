"""What an imported ledger and the one that is there already say of an entry: which one counts."""

from __future__ import annotations

from dataclasses import dataclass

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.moving.contents import LedgerContents
from celery_safe_leader._operations.moving.ledger_file import LedgerFile

__all__ = ["MergedLedger", "done", "merge"]


@dataclass(slots=True)
class MergedLedger:
    """What the ledger is to hold."""

    runs: dict[str, LastRun]
    claims: dict[str, Claim]


def merge(file: LedgerFile, there: LedgerContents) -> MergedLedger:
    """Return a ledger that knows what either knows.

    Of two last runs the later one counts, so that none runs twice. An entry that has run goes
    before one that a leader merely enrolled, so that what it missed since is not lost. Entries of
    which only one knows stay.
    """
    runs = dict(there.runs)
    for name, run in file.runs.items():
        runs[name] = _later(run, runs[name]) if name in runs else run
    claims = dict(there.claims)
    for name, claim in file.claims.items():
        if name not in claims or claim.moment > claims[name].moment:
            claims[name] = claim
    open_claims = {
        name: claim
        for name, claim in claims.items()
        if name not in runs or claim.moment > runs[name].moment
    }
    return MergedLedger(runs, open_claims)


def _later(run: LastRun, there: LastRun) -> LastRun:
    if run.is_start != there.is_start:
        return there if run.is_start else run
    if run.is_start:
        return run
    return run if run.moment > there.moment else there


def done(claim: Claim, run: LastRun | None) -> LastRun:
    """Return the last run of an entry whose claim counts as done."""
    if run is None:
        return LastRun(claim.moment, 1, claim.first, claim.fingerprint)
    return LastRun(claim.moment, run.count + 1, run.seen, run.fingerprint)
