"""What the ledger returns. Where there are three outcomes there are three names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.hash_sentinel import Pause
from celery_safe_leader._ledger.publications import OverlapRule

__all__ = [
    "Adoption",
    "ClaimOutcome",
    "Commit",
    "CommitOutcome",
    "Condition",
    "CopiedPiece",
    "Enrolment",
    "EnrolmentOutcome",
    "ForgetOutcome",
    "LedgerState",
    "Merged",
    "Next",
    "Settlement",
    "SettlementOutcome",
    "Snapshot",
    "Written",
]


class Condition(Enum):
    """What a leader found when it adopted the ledger. The values say what it means."""

    NEW = "there was no ledger"
    WHOLE = "the ledger is as its last leader left it"
    PARTIAL = "a leader died while restoring a lost ledger; entries may be missing"
    TORN = "runs and pending do not belong together; one of them was lost or rolled back"


@dataclass(frozen=True, slots=True)
class Adoption:
    """The ledger is this leader's, under a new generation."""

    condition: Condition
    entries: int
    """Entries with a run."""
    pending: int
    """Entries with a claim that is not committed."""
    mark: str = ""
    """Nonce of the ledger from now on: the one that was found, unless that does not count. It
    changes whenever a moment is set back or an entry goes. Empty while memory is merged in."""
    pause: Pause | None = None
    """The pause that is in force."""
    epoch: str = ""
    """Of the server: its process and its latest promotion. Empty where it does not say."""

    @property
    def state(self) -> LedgerState:
        """What a copy of the ledger is compared with."""
        return LedgerState(self.epoch, self.mark, self.entries)


class LedgerState(NamedTuple):
    """What stays the same for as long as no entry of the ledger goes back or away."""

    epoch: str
    """As that of an adoption."""
    mark: str
    """The same."""
    entries: int
    """Entries with a run."""

    @property
    def can_be_copied(self) -> bool:
        """Whether a copy of such a ledger could be told from one that is ahead of it."""
        return bool(self.epoch and self.mark)


@dataclass(frozen=True, slots=True)
class CopiedPiece:
    """Some entries of the ledger, read at once with its state."""

    state: LedgerState
    now: int
    """Redis's clock, in microseconds since 1970."""
    cursor: int
    """Where to go on; 0 at the end."""
    runs: dict[str, LastRun]
    unreadable: dict[str, bytes]
    """Entries whose run cannot be read -> the value."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the ledger knows, or of ``runs`` only the entries that were asked for."""

    runs: dict[str, LastRun]
    pending: dict[str, Claim]
    """Claims to settle: nobody knows whether they were published."""
    done: dict[str, Claim]
    """Claims that are not later than their entry's run. Commit them; publish none."""
    ahead: frozenset[str]
    """Entries whose run or claim lies in the future by more than the slack. Bring them back."""
    unreadable: dict[str, bytes]
    """Entries whose run or claim cannot be read -> the value. They stay as they are in Redis."""
    now: int
    """Redis's clock, in microseconds since 1970."""

    @property
    def claimed(self) -> set[str]:
        """Entries with a claim, settled or not."""
        return self.pending.keys() | self.done.keys()


class CommitOutcome(Enum):
    """What became of a commit."""

    COMMITTED = "C"
    """It is recorded; perhaps by an earlier copy of the request."""
    DIFFERS = "D"
    """The entry's claim is not this one: the ledger is not what this leader left."""


class ClaimOutcome(Enum):
    """What became of a claim."""

    CLAIMED = "C"
    """It is pending and may be published; perhaps by an earlier copy of the request."""
    PENDING = "P"
    """The entry has another claim pending: the ledger is not what this leader left."""
    DIFFERS = "D"
    """The entry's run is not the expected one: the ledger is not what this leader left."""
    NOT_LATER = "L"
    """It is not later than the run that it was computed from. It was not sent."""
    AHEAD = "A"
    """It lies ahead of Redis's clock by more than the slack: one of the two clocks is wrong."""
    PAUSED = "S"
    """The ledger is paused."""
    CHANGED = "V"
    """The stored entry is not the one that it was computed from."""
    OVERLAPS = "O"
    """The last run is not over. If the policy is to skip, ``Next.skipped`` is recorded; perhaps by
    an earlier copy of the request."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A claim that was published, or given up for good, and the last run to record for it."""

    claim: Claim
    run: LastRun
    unmark: bool = False
    """The run was given up: nothing waits that the entry's next run could overlap."""


@dataclass(frozen=True, slots=True)
class Next:
    """A claim to make, if its entry's last run is still the one that it was computed from."""

    claim: Claim
    after: LastRun | None
    """``None``: the ledger does not know the entry."""
    overlap: OverlapRule | None = None
    version: str = ""
    """Of a stored entry. If it has another one by now, nothing is claimed."""

    @property
    def skipped(self) -> LastRun:
        """What is recorded if it is skipped: no run was published, so none is counted."""
        count, seen = (self.after.count, self.after.seen) if self.after else (0, self.claim.first)
        return LastRun(self.claim.moment, count, seen, self.claim.fingerprint)

    @property
    def is_later(self) -> bool:
        """Whether time goes forward from the run to the claim."""
        return self.after is None or self.claim.moment > self.after.moment


@dataclass(frozen=True, slots=True)
class Written:
    """Outcomes of a write, in the order of its commits and claims."""

    commits: tuple[CommitOutcome, ...]
    claims: tuple[ClaimOutcome, ...]
    now: int
    """Redis's clock at the write, in microseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A last run to write, if the entry's last run is still the expected one."""

    entry: str
    expected: LastRun | None
    """``None``: the ledger does not know the entry."""
    run: LastRun

    @property
    def sets_back(self) -> bool:
        """Whether the entry goes back to an earlier moment, or may be due at an earlier one."""
        before, after = self.expected, self.run
        return before is not None and (after.moment < before.moment or after.base < before.base)


class EnrolmentOutcome(Enum):
    """What became of an enrolment."""

    WRITTEN = "W"
    """It is recorded; perhaps by an earlier copy of the request."""
    DIFFERS = "D"
    """The run in Redis is not the expected one, and is kept."""


class SettlementOutcome(Enum):
    """What is known of an occurrence that was claimed and not committed."""

    ACCEPTED = "A"
    """A worker accepted a publication: commit."""
    OPEN = "N"
    """No publication was accepted so far: publish again, under a new nonce."""
    DIFFERS = "D"
    """It is not pending: the ledger is not what this leader left."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """What is known of a claim. It is marked as attempted again."""

    claim: Claim
    outcome: SettlementOutcome
    publication: str
    """Nonce of the publication that was accepted, or empty."""


@dataclass(frozen=True, slots=True)
class Merged:
    """An entry of which Redis knew more than the memory. Both values are what is kept."""

    entry: str
    run: LastRun | None
    claim: Claim | None
    """``None``: nothing is pending, even if the memory had a claim."""


class ForgetOutcome(Enum):
    """What became of an entry that the leader does not know."""

    MARKED = "M"
    """The grace period begins."""
    WAITING = "W"
    """The grace period runs."""
    FORGOTTEN = "F"
    """It is gone from the ledger."""
    FORGOTTEN_PENDING = "P"
    """It is gone, and with it an occurrence that was never published for certain."""
