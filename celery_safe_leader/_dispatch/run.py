"""One run: an occurrence of an entry that is claimed, until it is committed.

What becomes due goes through these places, each of which is kept by one object:

======================  ==========================================================================
place                   kept by
======================  ==========================================================================
not due yet             ``Timetable``
claim without a reply   ``Claims``: nobody knows whether it was written, so it is written again
waits for its moment    ``Waiting``: a :class:`Run` that is claimed in the ledger
unsettled               ``Unsettled``: the claim of a run that may have been published, or whose
                        publication failed
to be committed         ``Claims``, until the next write to the ledger
======================  ==========================================================================

A run that is withdrawn before its moment goes back to the timetable; so does its entry once the
run is published or given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._ledger.codec import Claim

__all__ = ["Run", "RunState"]


class RunState(Enum):
    """How far a claimed run has come."""

    CLAIMED = "claimed"
    """It is in the ledger, and its message is not built yet."""
    BUILT = "built"
    """Its message is ready for the broker."""
    GIVEN_UP = "given up"
    """Its message cannot be built, now or later. It is committed without one."""


@dataclass(slots=True)
class Run:
    """One occurrence of an entry on its way to the broker."""

    entry: Entry
    claim: Claim
    is_fresh: bool = True
    """Claimed by this leader in this tenure, so that nobody can have published it yet."""
    state: RunState = RunState.CLAIMED
    message: Any = None
    """What the builder built; ``None`` unless the state is ``BUILT``."""

    def built(self, message: Any) -> None:
        """Keep the message that was built."""
        self.state, self.message = RunState.BUILT, message

    def give_up(self) -> None:
        """Mark the run as one that can never be published."""
        self.state = RunState.GIVEN_UP
