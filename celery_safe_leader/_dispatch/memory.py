"""A leader's memory of the ledger: loaded once, kept, and written back if Redis loses it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.ports import Schedule
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
from celery_safe_leader._schedules.moments import now_us

__all__ = ["GRACE", "Memory"]

logger = logging.getLogger("celery_safe_leader.beat")

GRACE = 7 * 86_400.0
"""Seconds for which an entry that no leader knows is remembered: longer than a deploy that is
rolled back, and than two releases that lead in turns."""


_EVERYBODYS = frozenset({"celery.backend_cleanup"})
"""Entries that Celery itself adds to the schedules of many apps."""
_SHOWN = 3


class Memory:
    """What the ledger holds, for the entries of the roster and for those that it does not have.

    For one thread. The methods raise what the ledger's do.
    """

    def __init__(self, ledger: Ledger, roster: Schedule) -> None:
        """Begin with nothing loaded."""
        self.ledger = ledger
        self._roster = roster
        self._foreign_runs: dict[str, LastRun] = {}
        self._foreign_pending: dict[str, Claim] = {}
        self._unreadable: set[str] = set()
        self._strangers = SharedKeyCheck(ledger.key)

    def load(self, holder: str, token: int) -> None:
        """Take the ledger over at the beginning of a tenure.

        Afterwards every item that may run has a run; one with a claim has to be settled first.
        """
        adoption = self.ledger.adopt(holder, token)
        if adoption.condition in (Condition.PARTIAL, Condition.TORN):
            logger.error(
                "The ledger of %s is not whole: %s. Entries that are missing from it begin anew "
                "now; what they missed is not made up for",
                self.ledger.key,
                adoption.condition.value,
            )
        snapshot = self.ledger.load()
        self._note_unreadable(snapshot)
        known = self._roster.items
        self._strangers.look(snapshot.runs, known)
        self._foreign_runs = {n: run for n, run in snapshot.runs.items() if n not in known}
        self._foreign_pending = {n: c for n, c in snapshot.pending.items() if n not in known}
        self._finish(snapshot)
        for name, item in known.items():
            item.run, item.claim = None, snapshot.pending.get(name)
            if name in snapshot.runs:
                item.take(snapshot.runs[name])
        self._bring_back(snapshot)
        self.enrol(known)
        self._forget(snapshot)

    def enrol(self, names: Iterable[str]) -> None:
        """Write where entries begin that are new, and where those go on whose schedule changed."""
        now = now_us()
        enrolments = []
        for name in names:
            item = self._roster.items.get(name)
            if item is None or name in self._unreadable:
                continue
            if item.run is None and name in self._foreign_runs:
                item.take(self._foreign_runs.pop(name))
                item.claim = self._foreign_pending.pop(name, item.claim)
            if item.run is None:
                run = item.starting_run(now, self._roster.given_last_run(name))
            elif item.run.fingerprint != item.rule.fingerprint:
                run = item.changed_run(item.run, now)
            else:
                continue
            enrolments.append(Enrolment(name, item.run, run))
        self._enrol(enrolments)

    def replace(self, name: str, before: Entry | None) -> None:
        """Let an entry that changed or went keep its place in the ledger."""
        item = self._roster.items.get(name)
        if before is None or before.run is None:
            return
        if item is None:
            self._foreign_runs[name] = before.run
            if before.claim is not None:
                self._foreign_pending[name] = before.claim
        else:
            item.take(before.run)
            item.claim = before.claim

    def restore(self, holder: str, token: int) -> None:
        """Write the memory back into a ledger that was lost, in part or whole, or set back."""
        self.ledger.adopt(holder, token, restoring=True)
        items = self._roster.items
        runs = dict(self._foreign_runs)
        runs.update((name, item.run) for name, item in items.items() if item.run is not None)
        pending = dict(self._foreign_pending)
        pending.update((name, item.claim) for name, item in items.items() if item.claim is not None)
        for merged in self.ledger.merge(runs, pending):
            item = items.get(merged.entry)
            if item is None:
                self._learn_foreign(merged)
                continue
            if merged.run is not None:
                item.take(merged.run)
            item.claim = merged.claim
        self.ledger.seal()
        logger.warning(
            "Redis had lost the ledger of %s, or part of it: this leader wrote %d entries back, "
            "so that no run of them is lost",
            self.ledger.key,
            len(runs),
        )

    def _learn_foreign(self, merged: Merged) -> None:
        if merged.run is not None:
            self._foreign_runs[merged.entry] = merged.run
        self._foreign_pending.pop(merged.entry, None)
        if merged.claim is not None:
            self._foreign_pending[merged.entry] = merged.claim

    def _enrol(self, enrolments: list[Enrolment]) -> None:
        for enrolment, outcome in zip(enrolments, self.ledger.enrol(enrolments), strict=True):
            if outcome is EnrolmentOutcome.WRITTEN:
                self._roster.items[enrolment.entry].take(enrolment.run)

    def _finish(self, snapshot: Snapshot) -> None:
        """Commit what is pending although it is not later than its entry's run."""
        done = [Commit(claim, snapshot.runs[name]) for name, claim in snapshot.done.items()]
        for start in range(0, len(done), BATCH):
            self.ledger.write(done[start : start + BATCH], ())

    def _bring_back(self, snapshot: Snapshot) -> None:
        now = now_us()
        enrolments = []
        for name in sorted(snapshot.ahead):
            item = self._roster.items.get(name)
            if item is None or item.run is None:
                continue
            ahead = (item.run.moment - snapshot.now) / 1_000_000
            logger.error(
                "Entry %r was last run %.0f s in the future by Redis's clock: a beat with a wrong "
                "clock wrote that. It goes on from now",
                name,
                ahead,
            )
            run = LastRun(now, item.run.count, now, item.rule.fingerprint)
            enrolments.append(Enrolment(name, item.run, run))
        self._enrol(enrolments)

    def _note_unreadable(self, snapshot: Snapshot) -> None:
        self._unreadable = set(snapshot.unreadable)
        for name, value in sorted(snapshot.unreadable.items()):
            logger.error(
                "The ledger's value of entry %r cannot be read (%.80r): it does not run. Remove "
                "the field from %s and %s",
                name,
                value,
                self.ledger.names.runs,
                self.ledger.names.pending,
            )

    def _forget(self, snapshot: Snapshot) -> None:
        """Start or go on with the grace period of entries that the roster does not have."""
        known = self._roster.items
        entries = self._foreign_runs.keys() | self._foreign_pending.keys()
        unknown = entries - self._unreadable
        again = [name for name in snapshot.unknown if name in known]
        for name, outcome in self.ledger.forget(unknown, again, grace=GRACE).items():
            if outcome in (ForgetOutcome.FORGOTTEN, ForgetOutcome.FORGOTTEN_PENDING):
                self._foreign_runs.pop(name, None)
                self._foreign_pending.pop(name, None)
            if outcome is ForgetOutcome.FORGOTTEN_PENDING:
                logger.warning(
                    "Entry %r was removed from beat_schedule with a run that was perhaps never "
                    "published; it is forgotten after %d days",
                    name,
                    GRACE // 86_400,
                )


class SharedKeyCheck:
    """Compares what a leader finds with what it has. Warns once."""

    def __init__(self, key: str) -> None:
        """Begin without suspicion."""
        self._key = key
        self._told = False

    def look(self, found: Iterable[str], own: Iterable[str]) -> None:
        """Say so if the ledger has entries, and none of them is in the schedule.

        Args:
            found: Entries of the ledger.
            own: Entries of this beat's schedule.
        """
        theirs, ours = set(found) - _EVERYBODYS, set(own) - _EVERYBODYS
        if self._told or not theirs or not ours or theirs & ours:
            return
        self._told = True
        logger.warning(
            "The ledger of %s has %d entries, and none of them is in this beat's schedule: %s. If "
            "they belong to another app, the two take turns under one leader_key, and whoever "
            "stands by dispatches nothing: give each its own. If all entries were renamed, nothing "
            "is wrong",
            self._key,
            len(theirs),
            ", ".join(f"{name[:80]!r}" for name in sorted(theirs)[:_SHOWN]),
        )
