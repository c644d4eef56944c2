"""What can be wrong between a leader and the ledger. All picklable, like all errors here."""

from __future__ import annotations

from enum import Enum

from celery_safe_leader.errors import NotLeaderError, SafeLeaderError

__all__ = [
    "ClockAheadError",
    "FenceReason",
    "FencedError",
    "GenerationChangedError",
    "LedgerBusyError",
    "LedgerError",
    "LedgerFormatError",
    "LedgerOwnedError",
    "LedgerPausedError",
    "LedgerReplacedError",
    "LedgerUnmovableError",
    "LedgerUnpausableError",
]


class FenceReason(Enum):
    """Why the lease record did not allow a write to the ledger."""

    VACANT = "the lease record is lost or vacant; the next renewal may restore it"
    RESIGNED = "this leader has resigned"
    SUPERSEDED = "another candidate holds the lease"


class FencedError(NotLeaderError):
    """The lease record does not name this leader: nothing of the ledger was changed.

    Args:
        key: The election.
        holder: Candidate id in the record, empty if there is none.
        reason: Name of a :class:`FenceReason`.
    """

    def __init__(self, key: str, holder: str = "", reason: str = "SUPERSEDED") -> None:
        super().__init__(key, holder)
        self.args = (key, holder, reason)
        self.reason = reason

    def __str__(self) -> str:
        who = f"; the record names {self.holder}" if self.holder else ""
        return f"the ledger of {self.key!r} refused a write: {FenceReason[self.reason].value}{who}"


class LedgerError(SafeLeaderError):
    """The ledger is not as this leader left it, or does not belong to it.

    Args:
        key: The key whose ledger it is.
        detail: What was found, as a clause.
    """

    def __init__(self, key: str, detail: str) -> None:
        super().__init__(key, detail)
        self.key = key
        self.detail = detail

    def __str__(self) -> str:
        return f"ledger of {self.key!r}: {self.detail}"


class GenerationChangedError(LedgerError):
    """The ledger was lost, in part or whole, or rolled back: merge the memory into it.

    Nothing was changed by the refused request.
    """


class LedgerOwnedError(LedgerError):
    """The ledger belongs to another election of the key: this leader may not dispatch.

    Args:
        key: The key whose ledger it is.
        detail: What was found, as a clause.
        election: Name of the election that it belongs to.
        holder: Candidate id of that election's leader.
    """

    def __init__(self, key: str, detail: str, election: str = "", holder: str = "") -> None:
        super().__init__(key, detail)
        self.args = (key, detail, election, holder)
        self.election = election
        self.holder = holder


class LedgerPausedError(LedgerError):
    """The ledger is paused: nothing was published.

    Args:
        key: The key whose ledger it is.
        number: Of the pause.
        until_us: When it ends by Redis's clock, in microseconds since 1970; 0 if it has no end.
        now_us: Redis's clock when it refused.
    """

    def __init__(self, key: str, number: int = 0, until_us: int = 0, now_us: int = 0) -> None:
        super().__init__(key, "it is paused")
        self.args = (key, number, until_us, now_us)
        self.number = number
        self.until_us = until_us
        self.now_us = now_us

    def __str__(self) -> str:
        left = (
            f"for {(self.until_us - self.now_us) / 1e6:.0f} s more"
            if self.until_us
            else "without end"
        )
        return f"{super().__str__()} {left} (pause #{self.number})"


class LedgerUnpausableError(LedgerError):
    """The ledger cannot be paused or resumed now: nothing was changed."""


class LedgerUnmovableError(LedgerError):
    """The ledger cannot be replaced now, nor an entry renamed: nothing was changed."""


class LedgerBusyError(LedgerUnmovableError):
    """A leader wrote to the ledger since it was read: read it again."""


class LedgerReplacedError(LedgerError):
    """People replaced the ledger, or renamed an entry in it: read it anew.

    Nothing was changed by the refused request.
    """


class LedgerFormatError(LedgerError):
    """The ledger was written in a format that this release cannot read."""


class ClockAheadError(SafeLeaderError):
    """This machine's clock is ahead of Redis's by more than the ledger allows.

    Args:
        entry: Name of an entry that seemed due.
    """

    def __init__(self, entry: str) -> None:
        super().__init__(entry)
        self.entry = entry

    def __str__(self) -> str:
        return (
            "this machine's clock is ahead of Redis's by more than the ledger allows: entry "
            f"{self.entry!r} seemed due. Correct the clock of this machine (or of Redis)"
        )
