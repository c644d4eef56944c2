"""First publication wins: which message of an occurrence a worker may run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from celery_safe_leader._ledger.script_calls import call, ledger_script
from celery_safe_leader._store.keys import LedgerKeys

__all__ = ["LONG_LIFE_MS", "Acceptance", "AcceptanceOutcome", "accept"]

LONG_LIFE_MS = 30 * 24 * 3600 * 1000
"""How long an occurrence that was attempted again is remembered: a copy may arrive very late."""


class Executes(Protocol):
    """The part of redis-py's client that is needed here."""

    def execute_command(self, *command: Any) -> Any:
        """Send one command and return its reply."""


class AcceptanceOutcome(Enum):
    """Whether a message may run."""

    FIRST = "F"
    """Nobody accepted the occurrence before: run it."""
    SAME = "S"
    """This very publication was accepted before, and arrives again: run it as Celery would."""
    OTHER = "O"
    """Another publication of the occurrence was accepted: drop this one."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The answer to a worker."""

    outcome: AcceptanceOutcome
    publication: str
    """Nonce of the publication that was accepted first."""

    @property
    def may_run(self) -> bool:
        """Whether the message may run."""
        return self.outcome is not AcceptanceOutcome.OTHER


def accept(
    client: Executes,
    key: str,
    occurrence: str,
    publication: str,
    *,
    window: float,
    prefix: str = "",
) -> Acceptance:
    """Record a publication of an occurrence as the accepted one, unless another one is.

    One round trip. Needs no leadership.

    Args:
        client: For the Redis that holds the ledger; without ``decode_responses``.
        key: The key from the message's headers, not from the worker's settings.
        occurrence: Id of the occurrence.
        publication: Nonce of the message's publication.
        window: Seconds for which the record lives; 30 days where the occurrence was attempted
            again.
        prefix: Of all keys in Redis.

    Raises:
        StoreUnavailableError: No answer; the publication may have been recorded.
        StoreRefusedError: Redis answered with an error.
    """
    names = LedgerKeys(key, prefix)
    keys = (names.accepted(occurrence), names.again(occurrence))
    args = (publication, max(1, round(window * 1000)), LONG_LIFE_MS)
    letter, recorded = call(client, ledger_script("accept"), keys, args)
    return Acceptance(AcceptanceOutcome(letter.decode()), recorded[:200].decode("utf-8", "replace"))
