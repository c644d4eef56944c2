"""Runs that are claimed and not known to be published, and when each may be tried (again)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from celery_safe_leader._ledger.codec import Claim

__all__ = ["Unsettled"]

logger = logging.getLogger("celery_safe_leader.beat")

_SHORTEST_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 5.0
"""Both in seconds."""
_TOGETHER = 2
"""Failures after which a run is published alone, so that one bad message does not fail a batch."""


@dataclass(slots=True)
class _Debt:
    claim: Claim
    failures: int = 0
    not_before: float = 0.0


class Unsettled:
    """What a leader owes the broker. For one thread.

    If the broker fails, everything waits a little. A run that keeps failing waits for itself, and
    is tried alone: a message that the broker refuses does not hold up those that it takes. After
    such a try what is newly due has its turn, since the broker's rest and the run's own may end
    at the same moment each time.
    """

    def __init__(self) -> None:
        """Begin with nothing owed."""
        self._debts: dict[str, _Debt] = {}
        self._failures = 0
        self._not_before = 0.0
        self._others_first = False

    def __len__(self) -> int:
        return len(self._debts)

    def add(self, claim: Claim) -> None:
        """Owe a run; if it is owed already, what is known of it stays."""
        debt = self._debts.get(claim.entry)
        if debt is None or debt.claim != claim:
            self._debts[claim.entry] = _Debt(claim)

    def discard(self, name: str) -> None:
        """Owe nothing more for an entry."""
        self._debts.pop(name, None)

    def clear(self) -> None:
        """Owe nothing; what is known of the broker stays."""
        self._debts.clear()
        self._others_first = False

    def broker_pause(self) -> float:
        """Return the seconds for which nothing should be published; 0 or less for none."""
        return self._not_before - time.monotonic()

    def next_in(self) -> float | None:
        """Return the seconds until the first may be tried; ``None`` if nothing is owed."""
        if not self._debts:
            return None
        first = min(debt.not_before for debt in self._debts.values())
        return max(0.0, first - time.monotonic())

    def ready(self, most: int) -> list[Claim]:
        """Return those to try now, together: the oldest that did not fail often, else one.

        None at the first call after one that was tried alone has failed: then it is the turn of
        what is newly due.
        """
        if self._others_first:
            self._others_first = False
            return []
        now = time.monotonic()
        debts = [debt for debt in self._debts.values() if debt.not_before <= now]
        together = [debt for debt in debts if debt.failures < _TOGETHER]
        if together:
            together.sort(key=lambda debt: debt.claim.moment)
            return [debt.claim for debt in together[:most]]
        debts.sort(key=lambda debt: (debt.failures, debt.claim.moment))
        return [debt.claim for debt in debts[:1]]

    def published(self) -> None:
        """Note that the broker takes messages."""
        if self._failures:
            logger.info("The broker takes messages again")
        self._failures = 0

    def failed(
        self, claims: Iterable[Claim], error: BaseException, *, reached: bool = True
    ) -> None:
        """Owe runs whose publication failed, and let the broker rest.

        Args:
            claims: The runs.
            error: What the first of them met.
            reached: Whether there was a connection. If not, it is held against none of them, or
                those that waited longest would be published last.
        """
        now = time.monotonic()
        for claim in claims:
            self.add(claim)
            if reached:
                debt = self._debts[claim.entry]
                debt.failures += 1
                self._others_first |= debt.failures > _TOGETHER  # it was tried alone
                debt.not_before = now + _back_off(debt.failures)
        self._failures += 1
        self._not_before = now + _back_off(self._failures)
        if self._failures == 1:
            logger.error(
                "The broker does not take messages: %r. %d runs wait, and are published when it "
                "does; trying again",
                error,
                len(self._debts),
            )


def _back_off(failures: int) -> float:
    return min(_LONGEST_BACK_OFF, _SHORTEST_BACK_OFF * 2.0 ** min(failures - 1, 10))
