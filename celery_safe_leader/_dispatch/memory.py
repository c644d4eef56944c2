"""A leader's memory of the ledger: loaded once, kept, and written back if Redis loses it."""

from __future__ import annotations

from collections.abc import Iterable

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.ports import Schedule
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import (
    Commit,
    Condition,
    Enrolment,
    EnrolmentOutcome,
    ForgetOutcome,
    Merged,
    Snapshot,
)
from celery_safe_leader._loggers import beat_logger as logger
from celery_safe_leader._schedules.moments import SECOND_US, now_us

__all__ = ["GRACE", "Memory", "SharedKeyCheck"]

GRACE = 7 * 86_400.0
"""Seconds for which an entry that no leader knows is remembered: longer than a deploy that is
rolled back, and than two releases that lead in turns."""

_EVERYBODYS = frozenset({"celery.backend_cleanup"})
"""Entries that Celery itself adds to the schedules of many apps."""
_SHOWN = 3
"""How many of the unknown entries are named in the log."""


class Memory:
    """What the ledger holds: of the entries in the schedule, and of those that are not in it.

    For one thread. The methods raise what the ledger's do.
    """

    def __init__(self, ledger: Ledger, schedule: Schedule) -> None:
        self._ledger = ledger
        self._schedule = schedule
        self._foreign_runs: dict[str, LastRun] = {}
        self._foreign_pending: dict[str, Claim] = {}
        self._unreadable: set[str] = set()
        self._shared_key = SharedKeyCheck(ledger.key)

    def load(self, tenure: Tenure) -> None:
        """Adopt the ledger for a new tenure, and read it.

        Afterwards every entry that may run has a last run; one with a claim has to be settled
        first.
        """
        adoption = self._ledger.adopt(tenure.holder, tenure.token)
        if adoption.condition in (Condition.PARTIAL, Condition.TORN):
            logger.error(
                "The ledger of %s is incomplete: %s. Entries missing from it start anew now; the "
                "runs that they missed are not made up for",
                self._ledger.key,
                adoption.condition.value,
            )
        snapshot = self._ledger.load()
        self._note_unreadable(snapshot)
        known = self._schedule.entries
        self._shared_key.check(snapshot.runs, known)
        self._foreign_runs = {n: run for n, run in snapshot.runs.items() if n not in known}
        self._foreign_pending = {n: c for n, c in snapshot.pending.items() if n not in known}
        self._commit_done(snapshot)
        for name, entry in known.items():
            entry.last_run, entry.claim = None, snapshot.pending.get(name)
            if name in snapshot.runs:
                entry.set_last_run(snapshot.runs[name])
        self._bring_back(snapshot)
        self.enrol(known)
        self._forget(snapshot)

    def enrol(self, names: Iterable[str]) -> None:
        """Write where new entries start, and where entries continue whose schedule changed."""
        now = now_us()
        enrolments = []
        for name in names:
            entry = self._schedule.entries.get(name)
            if entry is None or name in self._unreadable:
                continue
            if entry.last_run is None and name in self._foreign_runs:
                entry.set_last_run(self._foreign_runs.pop(name))
                entry.claim = self._foreign_pending.pop(name, entry.claim)
            if entry.last_run is None:
                run = entry.initial_last_run(now, self._schedule.given_last_run(name))
            elif entry.last_run.fingerprint != entry.rule.fingerprint:
                run = entry.rebased_last_run(entry.last_run, now)
            else:
                continue
            enrolments.append(Enrolment(name, entry.last_run, run))
        self._enrol(enrolments)

    def replace(self, name: str, before: Entry | None) -> None:
        """Let an entry that changed or went keep its place in the ledger."""
        entry = self._schedule.entries.get(name)
        if before is None or before.last_run is None:
            return
        if entry is None:
            self._foreign_runs[name] = before.last_run
            if before.claim is not None:
                self._foreign_pending[name] = before.claim
        else:
            entry.set_last_run(before.last_run)
            entry.claim = before.claim

    def restore(self, tenure: Tenure) -> None:
        """Write the memory back into a ledger that was lost, in part or whole, or rolled back."""
        self._ledger.adopt(tenure.holder, tenure.token, restoring=True)
        entries = self._schedule.entries
        runs = dict(self._foreign_runs)
        runs.update((n, e.last_run) for n, e in entries.items() if e.last_run is not None)
        pending = dict(self._foreign_pending)
        pending.update((n, e.claim) for n, e in entries.items() if e.claim is not None)
        for merged in self._ledger.merge(runs, pending):
            entry = entries.get(merged.entry)
            if entry is None:
                self._learn_foreign(merged)
                continue
            if merged.run is not None:
                entry.set_last_run(merged.run)
            entry.claim = merged.claim
        self._ledger.seal()
        logger.warning(
            "Redis had lost the ledger of %s, or part of it: this leader restored %d entries, so "
            "none of their runs is lost",
            self._ledger.key,
            len(runs),
        )

    def _learn_foreign(self, merged: Merged) -> None:
        if merged.run is not None:
            self._foreign_runs[merged.entry] = merged.run
        self._foreign_pending.pop(merged.entry, None)
        if merged.claim is not None:
            self._foreign_pending[merged.entry] = merged.claim

    def _enrol(self, enrolments: list[Enrolment]) -> None:
        for enrolment, outcome in zip(enrolments, self._ledger.enrol(enrolments), strict=True):
            if outcome is EnrolmentOutcome.WRITTEN:
                self._schedule.entries[enrolment.entry].set_last_run(enrolment.run)

    def _commit_done(self, snapshot: Snapshot) -> None:
        """Commit what is pending although it is not later than its entry's last run."""
        done = [Commit(claim, snapshot.runs[name]) for name, claim in snapshot.done.items()]
        for start in range(0, len(done), BATCH):
            self._ledger.write(done[start : start + BATCH], ())

    def _bring_back(self, snapshot: Snapshot) -> None:
        """Let entries whose last run lies in the future continue from now."""
        now = now_us()
        enrolments = []
        for name in sorted(snapshot.ahead):
            entry = self._schedule.entries.get(name)
            if entry is None or entry.last_run is None:
                continue
            ahead = (entry.last_run.moment - snapshot.now) / SECOND_US
            logger.error(
                "Entry %r was last run %.0f s in the future by Redis's clock: a beat with a wrong "
                "clock wrote that. It continues from now",
                name,
                ahead,
            )
            run = LastRun(now, entry.last_run.count, now, entry.rule.fingerprint)
            enrolments.append(Enrolment(name, entry.last_run, run))
        self._enrol(enrolments)

    def _note_unreadable(self, snapshot: Snapshot) -> None:
        self._unreadable = set(snapshot.unreadable)
        for name, value in sorted(snapshot.unreadable.items()):
            logger.error(
                "The ledger's value for entry %r cannot be read (%.80r): the entry does not run. "
                "Remove the field from %s and %s",
                name,
                value,
                self._ledger.names.runs,
                self._ledger.names.pending,
            )

    def _forget(self, snapshot: Snapshot) -> None:
        """Start or continue the grace period of entries that the schedule does not have."""
        known = self._schedule.entries
        foreign = self._foreign_runs.keys() | self._foreign_pending.keys()
        unknown = foreign - self._unreadable
        again = [name for name in snapshot.unknown if name in known]
        for name, outcome in self._ledger.forget(unknown, again, grace=GRACE).items():
            if outcome in (ForgetOutcome.FORGOTTEN, ForgetOutcome.FORGOTTEN_PENDING):
                self._foreign_runs.pop(name, None)
                self._foreign_pending.pop(name, None)
            if outcome is ForgetOutcome.FORGOTTEN_PENDING:
                logger.warning(
                    "Entry %r was removed from beat_schedule with a run that may never have been "
                    "published; it is forgotten after %d days",
                    name,
                    GRACE // 86_400,
                )


class SharedKeyCheck:
    """Warns once if the ledger seems to belong to another app."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._told = False

    def check(self, found: Iterable[str], own: Iterable[str]) -> None:
        """Log a warning if the ledger has entries, but none of them is in the schedule.

        Args:
            found: Entries of the ledger.
            own: Entries of this beat's schedule.
        """
        theirs, ours = set(found) - _EVERYBODYS, set(own) - _EVERYBODYS
        if self._told or not theirs or not ours or theirs & ours:
            return
        self._told = True
        logger.warning(
            "The ledger of %s has %d entries, but none of them is in this beat's schedule: %s. If "
            "they belong to another app, the two apps take turns under one leader_key, and the "
            "one on standby dispatches nothing: give each app its own key. If all entries were "
            "renamed, nothing is wrong",
            self._key,
            len(theirs),
            ", ".join(f"{name[:80]!r}" for name in sorted(theirs)[:_SHOWN]),
        )
