"""A leader's memory of the ledger: loaded once, kept, and written back if Redis loses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.health.clock_watch import ClockWatch
from celery_safe_leader._dispatch.memory.shared_key import EVERYBODYS, SharedKeyCheck
from celery_safe_leader._dispatch.ports import Schedule
from celery_safe_leader._dispatch.tenure import Tenure
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import (
    Adoption,
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
from celery_safe_leader.errors import StoreRefusedError

__all__ = ["GRACE", "INCOMPLETE", "MOST_FOREIGN", "Memory"]

GRACE = 7 * 86_400.0
"""Seconds for which an entry that no leader knows is remembered: longer than a deploy that is
rolled back, and than two releases that lead in turns."""

MOST_FOREIGN = 1_000
"""Entries outside the schedule that are remembered. Where names come and go by the thousand the
memory would grow with them for the grace period. Only the ledger has the older ones: one that comes
back is read from it, and goes on from its last run, unless the ledger was lost as well."""

INCOMPLETE = (Condition.PARTIAL, Condition.TORN)
"""Conditions of a ledger from which entries or claims may be missing."""


class Memory:
    """What the ledger holds: of the entries in the schedule, and of those that are not in it.

    For one thread. The methods raise what the ledger's do.
    """

    grace: float = GRACE
    """Seconds."""

    def __init__(
        self,
        ledger: Ledger,
        schedule: Schedule,
        watch: ClockWatch,
        look_after: Callable[[Iterable[str]], object] = lambda _: None,
    ) -> None:
        """Know nothing.

        Args:
            ledger: Of the key.
            schedule: The entries.
            watch: Compares clocks.
            look_after: Called with entries that a new leader read, before those whose schedules
                changed are enrolled anew; not those with ``owed_us``.
        """
        self._ledger = ledger
        self._watch = watch
        self._look_after = look_after
        self._schedule = schedule
        self._foreign_runs: dict[str, LastRun] = {}
        self._foreign_pending: dict[str, Claim] = {}
        self._unreadable: dict[str, bytes] = {}
        self._shared_key = SharedKeyCheck(ledger.key)
        self._began_us = 0
        self.lagging: set[str] = set()
        """Entries outside the schedule that may have run since they were copied."""
        self.has_more = False
        """Whether the ledger may have entries that neither the schedule has nor this memory."""
        self.departures = 0
        """How often an entry outside the schedule was added."""

    @property
    def foreign(self) -> set[str]:
        """Entries of the ledger that are not in the schedule, and can be read."""
        return (self._foreign_runs.keys() | self._foreign_pending.keys()) - self._unreadable.keys()

    @property
    def foreign_count(self) -> int:
        """How many entries with a run are remembered that are not in the schedule."""
        return len(self._foreign_runs)

    # A copy, on standby

    def clear(self) -> None:
        """Forget all."""
        self._foreign_runs.clear()
        self._foreign_pending.clear()
        self._unreadable.clear()
        self.lagging.clear()
        for entry in self._schedule.entries.values():
            entry.last_run = entry.claim = None

    def note(self, name: str, run: LastRun | None) -> None:
        """Note where an entry stands, of which the claim is not known. ``None``: nowhere."""
        entry = self._schedule.entries.get(name)
        if entry is None:
            if run is None:
                self._foreign_runs.pop(name, None)
            else:
                self._keep_foreign(name, run)
            return
        entry.claim = None
        if run is None:
            entry.last_run = None
        else:
            entry.set_last_run(run)

    def note_unreadable(self, values: Mapping[str, bytes]) -> None:
        """Note entries whose values cannot be read."""
        self._unreadable.update(values)

    def check_key(self) -> None:
        """Log a warning, once, if what was copied seems to be the ledger of another app."""
        known = self._schedule.entries
        copied = {name for name, entry in known.items() if entry.last_run is not None}
        found = copied | self._foreign_runs.keys() | self._unreadable.keys()
        self._shared_key.check(found, known, has_more=self.has_more)

    # A tenure

    def adopt(self, tenure: Tenure) -> tuple[Adoption, int]:
        """Adopt the ledger for a new tenure, and compare clocks.

        Returns:
            What was found, and Redis's clock in microseconds since 1970.

        Raises:
            ClockOffError: This machine's clock is off. No moment was written.
        """
        adoption = self._ledger.adopt(tenure.holder, tenure.token)
        if adoption.condition in INCOMPLETE:
            logger.error(
                "The ledger of %s is incomplete: %s. Entries missing from it start anew now; the "
                "runs that they missed are not made up for",
                self._ledger.key,
                adoption.condition.value,
            )
        self._began_us = before = now_us()
        redis_us = self._ledger.write((), ()).now
        self._watch.compare(before, redis_us, now_us())
        self._watch.check()
        return adoption, redis_us

    def load(self) -> None:
        """Read all of the ledger, once it is adopted.

        Afterwards every entry that may run has a last run; one with a claim has to be settled
        first.
        """
        known = self._schedule.entries
        snapshot = self._ledger.load(ahead=self._watch.ahead)
        self._shared_key.check(snapshot.runs, known)
        self._foreign_runs.clear()
        self._unreadable.clear()
        self.lagging.clear()
        self.has_more = False
        for name, run in snapshot.runs.items():
            if name not in known:
                self._keep_foreign(name, run)
        self._take_in(snapshot, known)

    def load_some(self, names: Collection[str]) -> set[str]:
        """Read these entries and all claims, once the ledger is adopted; the others are known.

        Returns:
            The entries of the schedule that were read: also those that have a claim.
        """
        known = self._schedule.entries
        snapshot = self._ledger.load(names, ahead=self._watch.ahead)
        foreign = {n: run for n, run in snapshot.runs.items() if n not in known}
        for name, run in foreign.items():
            self._keep_foreign(name, run)
        self.lagging = self._foreign_runs.keys() - foreign.keys()
        read = known.keys() & {*names, *snapshot.claimed}
        for name in read:
            self._unreadable.pop(name, None)
        copied = len(known) - len(read)
        if copied <= len(EVERYBODYS):  # else one of them is this app's own
            found = self._foreign_runs.keys() | snapshot.runs.keys() | (known.keys() - read)
            self._shared_key.check(found, known, has_more=self.has_more)
        self._take_in(snapshot, read)
        return read

    def _take_in(self, snapshot: Snapshot, names: Iterable[str]) -> None:
        """Let entries stand where the ledger says, and enrol those of which it knows nothing."""
        known = self._schedule.entries
        self._unreadable.update(snapshot.unreadable)
        for name, value in sorted(self._unreadable.items()):
            self._tell_unreadable(name, f" ({value!r:.80})")
        self._foreign_pending = {n: c for n, c in snapshot.pending.items() if n not in known}
        self._commit_done(snapshot)
        for name in names:
            entry = known[name]
            entry.last_run, entry.claim = None, snapshot.pending.get(name)
            entry.owed_us = None
            if name in snapshot.runs:
                entry.set_last_run(snapshot.runs[name])
        self._look_after(names)
        if differing := self._bring_back(snapshot) | self.enrol(names):
            self.reread(differing)
        self._take_back(snapshot)

    def reread(self, names: Collection[str]) -> frozenset[str]:
        """Learn where entries stand in the ledger now; enrol those of which it knows nothing.

        Returns:
            As ``enrol``.
        """
        entries = self._schedule.entries
        read = self._ledger.read([name for name in names if name in entries])
        # Of a ledger that is lost nothing may be learned: it is restored from this memory.
        self._ledger.write((), ())
        gone, followed = set(), set()
        for name, (last_run, claim) in read.items():
            entry = entries[name]
            if claim is not None and last_run is not None and claim.moment <= last_run.moment:
                self._ledger.write([Commit(claim, last_run)], ())
                claim = None
            if entry.last_run is not None and last_run is None:
                gone.add(name)
            if entry.follows_schedule:
                followed.add(name)
            entry.last_run, entry.claim = None, claim
            if last_run is not None:
                entry.set_last_run(last_run)
        for name in sorted(entries.keys() & set(names) - read.keys()):
            # As after load(): else its run would be tried, refused and read for ever.
            entries[name].last_run = entries[name].claim = None
            self._unreadable[name] = b""
            self._tell_unreadable(name)
        # Another leader gave them another schedule after they were copied. Theirs is seen since
        # this tenure began: what fell due since then is not to be lost for it.
        differing = self.enrol(followed - gone, since_us=self._began_us)
        return differing | self.enrol(read.keys() - followed | gone, anew=bool(gone))

    def enrol(
        self, names: Iterable[str], *, anew: bool = False, since_us: int = 0
    ) -> frozenset[str]:
        """Write where new entries start, and where entries continue whose schedule changed.

        Args:
            names: The entries.
            anew: Somebody removed one of them from the ledger.
            since_us: Since when a changed schedule counts, in microseconds since 1970; now by
                default.

        Returns:
            Entries of which the ledger has another last run than was thought: read them again.
        """
        now = now_us()
        enrolments = []
        for name in names:
            entry = self._schedule.entries.get(name)
            if entry is None or name in self._unreadable:
                continue
            self.welcome(name)
            if entry.last_run is None:
                run = entry.initial_last_run(now, self._schedule.given_last_run(name))
            elif entry.owed_us is not None and not entry.follows_schedule:
                continue  # the run that it owes records the present schedule
            elif not entry.follows_schedule:
                run = entry.rebased_last_run(entry.last_run, since_us or now)
            else:
                continue
            enrolments.append(Enrolment(name, entry.last_run, run))
        return self._enrol(enrolments, anew=anew)

    def welcome(self, name: str) -> None:
        """Let an entry that came into the schedule stand where the ledger has it, if it does."""
        entry = self._schedule.entries[name]
        if entry.last_run is None and name in self._foreign_runs:
            entry.set_last_run(self._foreign_runs.pop(name))
            entry.claim = self._foreign_pending.pop(name, entry.claim)

    def replace(self, name: str, before: Entry | None) -> None:
        """Let an entry that changed or went keep its place in the ledger."""
        entry = self._schedule.entries.get(name)
        if before is None or before.last_run is None:
            return
        if entry is None:
            self._keep_foreign(name, before.last_run)
            if before.claim is not None:
                self._foreign_pending[name] = before.claim
        else:
            entry.set_last_run(before.last_run)
            entry.claim = before.claim
            entry.keep_answer(before)

    def restore(self, tenure: Tenure, take_in: Callable[[], None]) -> None:
        """Write the memory back into a ledger that was lost, in part or whole, or rolled back.

        Args:
            tenure: Of this leader.
            take_in: Called once the ledger is adopted, before anything is written: what is left
                of it may show what was done, and the memory may have to follow the schedule.
        """
        self._ledger.adopt(tenure.holder, tenure.token, restoring=True)
        take_in()
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
            "Redis had lost the ledger of %s, or part of it: this leader restored %d entries from "
            "its memory. Messages that Redis lost as well are gone",
            self._ledger.key,
            len(runs),
        )

    def _keep_foreign(self, name: str, run: LastRun) -> None:
        """Remember an entry outside the schedule; forget the one that was added first for it."""
        runs = self._foreign_runs
        self.departures += name not in runs
        runs[name] = run
        if len(runs) <= MOST_FOREIGN:
            return
        # A claim is nowhere else in the memory: what has one stays.
        first = next((each for each in runs if each not in self._foreign_pending), None)
        if first is not None:
            del runs[first]
            self.lagging.discard(first)
            self.has_more = True

    def _learn_foreign(self, merged: Merged) -> None:
        if merged.run is not None:
            self._keep_foreign(merged.entry, merged.run)
        self._foreign_pending.pop(merged.entry, None)
        if merged.claim is not None:
            self._foreign_pending[merged.entry] = merged.claim

    def _enrol(self, enrolments: list[Enrolment], *, anew: bool = False) -> frozenset[str]:
        outcomes = self._ledger.enrol(enrolments, anew=anew)
        differing = set()
        for enrolment, outcome in zip(enrolments, outcomes, strict=True):
            if outcome is EnrolmentOutcome.WRITTEN:
                self._schedule.entries[enrolment.entry].set_last_run(enrolment.run)
            else:
                differing.add(enrolment.entry)
        return frozenset(differing)

    def _commit_done(self, snapshot: Snapshot) -> None:
        """Commit what is pending although it is not later than its entry's last run."""
        done = [Commit(claim, snapshot.runs[name]) for name, claim in snapshot.done.items()]
        for start in range(0, len(done), BATCH):
            self._ledger.write(done[start : start + BATCH], ())

    def _bring_back(self, snapshot: Snapshot) -> frozenset[str]:
        """Let entries whose last run lies in the future continue from now."""
        now = now_us()
        enrolments = []
        for name, (entry, clock, latest) in self._ahead(snapshot, now).items():
            last_run = entry.last_run
            if last_run is None or last_run.moment <= latest:
                continue
            logger.error(
                "Entry %r was last run %.0f s in the future by %s clock: a beat with a wrong "
                "clock wrote that. It continues from now",
                name,
                (last_run.moment - latest) / SECOND_US,
                clock,
            )
            run = last_run.set_back(now, entry.rule.fingerprint)
            enrolments.append(Enrolment(name, last_run, run))
        return self._enrol(enrolments)

    def _take_back(self, snapshot: Snapshot) -> None:
        """Take back the claims of runs in the future, which would hold up their entries."""
        for name, (entry, clock, latest) in self._ahead(snapshot, now_us()).items():
            if entry.claim is None or entry.last_run is None or entry.claim.moment <= latest:
                continue
            logger.error(
                "A run of entry %r was claimed for a moment %.0f s in the future by %s clock: "
                "a beat with a wrong clock did that. The claim is taken back",
                name,
                (entry.claim.moment - latest) / SECOND_US,
                clock,
            )
            self._ledger.write([Commit(entry.claim, entry.last_run)], ())
            entry.claim = None

    def _ahead(self, snapshot: Snapshot, now: int) -> dict[str, tuple[Entry, str, int]]:
        """Return the entries with a run or claim in the future: whose clock says so, and its time.

        It is Redis's, unless this machine's is behind it and counts anyway.
        """
        entries = self._schedule.entries
        limit = self._watch.in_future(now)
        if limit is None:
            clock, latest, names = "Redis's", snapshot.now, set(snapshot.ahead)
        else:
            clock, latest = "this machine's", now
            names = {n for n, run in snapshot.runs.items() if run.moment > limit}
            names |= {n for n, claim in snapshot.pending.items() if claim.moment > limit}
        return {name: (entries[name], clock, latest) for name in sorted(names & entries.keys())}

    def _tell_unreadable(self, name: str, value: str = "") -> None:
        logger.error(
            "The ledger's value for entry %r cannot be read%s: the entry does not run. Remove the "
            "field from %s and %s",
            name,
            value,
            self._ledger.names.runs,
            self._ledger.names.pending,
        )

    # Entries that the schedule does not have

    def catch_up(self, names: Collection[str]) -> None:
        """Read entries again that may have run since they were copied."""
        for name, (run, claim) in self._ledger.read(names).items():
            if name in self._schedule.entries:
                continue
            self.note(name, run)
            if claim is not None:
                self._foreign_pending[name] = claim
        self.lagging.difference_update(names)

    def forget(self, names: Collection[str], known: Collection[str]) -> None:
        """Start or continue the grace period of entries that the schedule does not have.

        Args:
            names: Entries of ``foreign``.
            known: Entries of the schedule that were unknown to some leader.
        """
        gone = []
        for name, outcome in self._ledger.forget(names, known, grace=self.grace).items():
            if outcome in (ForgetOutcome.FORGOTTEN, ForgetOutcome.FORGOTTEN_PENDING):
                gone.append(name)
                self._foreign_runs.pop(name, None)
                self._foreign_pending.pop(name, None)
            if outcome is ForgetOutcome.FORGOTTEN_PENDING:
                logger.warning(
                    "Entry %r was removed from beat_schedule with a run that may never have been "
                    "published; it is forgotten after %d days",
                    name,
                    self.grace // 86_400,
                )
        # The leader that noted when they are due next may have ended before they went. A user who
        # may not remove the notes has not written any.
        with contextlib.suppress(StoreRefusedError):
            self._ledger.drop_next(gone)
