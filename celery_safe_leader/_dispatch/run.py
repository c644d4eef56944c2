"""One run on its way to the broker, and the table of the states that it goes through.

A run is one occurrence of an entry. Each of its states is kept by one object:

======================  ==========================================================================
state                   kept by
======================  ==========================================================================
scheduled, built        ``Waiting``, until its moment; nothing of it is in Redis
claimed, inherited      ``Waiting``: claimed by an earlier leader, and its moment is still to come
unanswered              ``Records``: the request goes out again, with the same runs
owed, unsettled         ``Unsettled``
sent                    ``Records``, until the next write to the ledger
======================  ==========================================================================

An entry without a run is on the ``Timetable``. It returns there when its run has ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._dispatch.health.user_calls import CallQuestion
from celery_safe_leader._dispatch.outcomes import BuildError
from celery_safe_leader._ledger.codec import Claim, LastRun
from celery_safe_leader._ledger.publications import Push

__all__ = ["TRANSITIONS", "Run", "RunState"]


class RunState(Enum):
    """How far a run has come."""

    # Each run is looked up by its state several times; the hash of an Enum is Python code.
    __hash__ = object.__hash__

    SCHEDULED = "scheduled"
    """It is due, or soon will be; its message has to be built at the moment itself."""
    BUILT = "built"
    """Its message is ready, in memory."""
    UNANSWERED = "unanswered"
    """A request to publish or claim it had no reply: it may have been executed."""
    CLAIMED = "claimed"
    """Write-ahead: it is in the ledger as one that is about to be published."""
    SENT = "sent"
    """Write-ahead: the broker has its message, and the ledger is told with the next write."""
    OWED = "owed"
    """Write-ahead: it is claimed, and the broker failed or was not asked."""
    UNSETTLED = "unsettled"
    """Somebody claimed it, and nobody knows whether its message was published."""
    HELD_BACK = "held back"
    """The ledger refuses it for now: it is paused, or the entry's last run has not ended."""
    SKIPPED = "skipped"
    """Recorded without a message, since the entry's last run has not ended."""
    GIVEN_UP = "given up"
    """Its message cannot be built, now or later. It is recorded without one."""
    DROPPED = "dropped"
    """Nothing of it is in Redis: its entry is looked at again. So ends what is built when its
    entry changes or goes, when the tenure ends, and where the ledger holds another last run."""
    DONE = "done"
    """It is recorded as the entry's last run."""


_S = RunState

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    _S.SCHEDULED: frozenset(
        # The last two by the look that comes before Celery's own code is called.
        {_S.BUILT, _S.GIVEN_UP, _S.DROPPED, _S.HELD_BACK, _S.UNSETTLED}
    ),
    _S.BUILT: frozenset(
        # All but "claimed" by the one script of the transactional way.
        {
            *(_S.DONE, _S.SKIPPED, _S.UNANSWERED, _S.UNSETTLED, _S.HELD_BACK, _S.DROPPED),
            *(_S.CLAIMED, _S.GIVEN_UP),
        }
    ),
    _S.UNANSWERED: frozenset(
        {_S.DONE, _S.SKIPPED, _S.UNSETTLED, _S.HELD_BACK, _S.DROPPED, _S.CLAIMED, _S.BUILT}
    ),
    _S.CLAIMED: frozenset({_S.SENT, _S.OWED, _S.GIVEN_UP}),
    _S.OWED: frozenset({_S.UNSETTLED}),
    _S.UNSETTLED: frozenset({_S.CLAIMED, _S.DONE}),
    _S.SENT: frozenset({_S.DONE}),
    _S.HELD_BACK: frozenset({_S.DROPPED}),
    _S.GIVEN_UP: frozenset({_S.DONE, _S.UNANSWERED, _S.UNSETTLED, _S.HELD_BACK, _S.DROPPED}),
    _S.SKIPPED: frozenset({_S.DONE}),
    _S.DROPPED: frozenset(),
    _S.DONE: frozenset(),
}
"""State -> the states that may follow it."""


@dataclass(slots=True, eq=False)
class Run:
    """One occurrence of an entry on its way to the broker. For one thread."""

    entry: Entry
    claim: Claim
    """Which occurrence it is, as the ledger knows it; it need not be claimed."""
    after: LastRun | None
    """The entry's last run that it was computed from."""
    record: LastRun
    """What the ledger has to record once the run is done."""
    state: RunState = RunState.SCHEDULED
    message: Any = None
    """What the builder built."""
    push: Push | None = None
    """The message as the ledger's script pushes it."""
    nonce: str = ""
    """Of the publication that ``push`` belongs to."""
    counted_us: int = 0
    """From when the times in ``push`` count that count from its publication."""
    is_plain: bool = True
    """Whether the ledger's script may push it, as far as is known."""
    in_call: bool = False
    """Whether user code that is to build or publish it has not returned. ``Rounds`` keeps it then,
    whatever its state."""
    is_called: bool = False
    """Whether Celery's own code sends it, and says so."""
    question: CallQuestion | None = None
    """Asked by that code while it publishes: it waits to know what became of the message."""
    again_us: int = 0
    """Microseconds after which it is looked at again, if it is held back; 0: as usual."""
    arrived_us: int = 0
    """When the ledger's script published it, in microseconds since 1970; 0 if it did not."""
    coalesced: int = 0
    """Moments before it that it stands for; they are told of when it is claimed or recorded."""
    dropped: int = 0
    """Moments before it that are too late to run, likewise."""
    gave_up: bool = False
    """Whether it is to be recorded without a message."""
    error: BuildError | None = None
    """Why its message cannot be built; it is told of when the run is recorded."""
    is_forgone: bool = False
    """Whether it had no reply, and is repeated without its message, which is too late by now."""

    @property
    def name(self) -> str:
        """Name of the entry."""
        return self.entry.name

    @classmethod
    def of(cls, entry: Entry, claim: Claim, state: RunState = RunState.SCHEDULED) -> Run:
        """Return the run of an occurrence that follows the entry's last run."""
        return cls(entry, claim, entry.last_run, entry.last_run_after(claim), state)

    def to(self, state: RunState) -> None:
        """Go on to another state.

        Raises:
            AssertionError: The table has no such transition: the pipeline is at fault.
        """
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"run of {self.name!r}: {self.state.value} to {state.value}")
        self.state = state

    def built(self, message: Any) -> None:
        """Keep the message that was built."""
        self.message = message
        if self.state is RunState.SCHEDULED:
            self.to(RunState.BUILT)

    def give_up(self) -> None:
        """Mark the run as one whose message can never be built."""
        self.gave_up, self.push = True, None
        self.to(RunState.GIVEN_UP)
