"""What the ledger returns. Where there are three outcomes there are three names."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from celery_safe_leader._ledger.codec import Claim, LastRun

__all__ = [
    "Adoption",
    "ClaimOutcome",
    "Commit",
    "CommitOutcome",
    "Condition",
    "Enrolment",
    "EnrolmentOutcome",
    "ForgetOutcome",
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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the ledger knows."""

    runs: dict[str, LastRun]
    pending: dict[str, Claim]
    """Claims to settle: nobody knows whether they were published."""
    done: dict[str, Claim]
    """Claims that are not later than their entry's run. Commit them; publish none."""
    unknown: dict[str, int]
    """Entries that a leader did not know -> since when, in microseconds by Redis's clock."""
    ahead: frozenset[str]
    """Entries whose run lies in the future by more than the slack. Bring them back."""
    unreadable: dict[str, bytes]
    """Entries whose run or claim cannot be read -> the value. They stay as they are in Redis."""
    now: int
    """Redis's clock, in microseconds since 1970."""


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


@dataclass(frozen=True, slots=True)
class Commit:
    """A claim that was published, or given up for good, and the last run to record for it."""

    claim: Claim
    run: LastRun


@dataclass(frozen=True, slots=True)
class Next:
    """A claim to make, if its entry's last run is still the one that it was computed from."""

    claim: Claim
    after: LastRun | None
    """``None``: the ledger does not know the entry."""

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
