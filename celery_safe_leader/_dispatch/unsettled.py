"""Runs that are claimed and not known to be published, and when each may be tried.

Also those that a dead leader left: ``Rounds`` settles them, which finds out what became of each.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from celery_safe_leader._core.backoff import backoff
from celery_safe_leader._ledger.codec import Claim
from celery_safe_leader._loggers import beat_logger as logger

__all__ = ["Unsettled"]

_SHORTEST_BACK_OFF = 0.1
_LONGEST_BACK_OFF = 5.0
_TELL_EVERY = 60.0
"""All in seconds."""
_TOGETHER = 2
"""Failures after which a run is published alone, so that one bad message does not fail a batch."""


@dataclass(slots=True)
class _UnsettledRun:
    claim: Claim
    failures: int = 0
    not_before: float = 0.0
    accepted: int = 0
    """How many messages the broker had accepted when this one failed first."""
    tell_at: float = 0.0


class Unsettled:
    """Claims that have to be settled: published, or found to be published. For one thread.

    If the broker fails, everything waits a little. A run that keeps failing waits on its own and
    is tried alone: a message that the broker refuses does not hold up those that it accepts. After
    such an attempt newly due runs have their turn, since the pause of the broker and that of the
    run may end at the same moment each time.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _UnsettledRun] = {}
        self._failures = 0
        self._accepted = 0
        self._not_before = 0.0
        self._others_first = False
        self._postponed: set[str] = set()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, claim: Claim) -> None:
        """Add a claim; if it is there already, its failures still count."""
        known = self._runs.get(claim.entry)
        if known is None or known.claim != claim:
            self._runs[claim.entry] = _UnsettledRun(claim)

    def discard(self, name: str) -> None:
        """Remove the claim of an entry, if there is one."""
        self._runs.pop(name, None)

    def clear(self) -> None:
        """Remove all claims; what is known of the broker stays."""
        self._runs.clear()
        self._postponed.clear()
        self._others_first = False

    def oldest_us(self) -> int | None:
        """Return the earliest moment of a claim; ``None`` if there is none. From any thread."""
        return min((run.claim.moment for run in list(self._runs.values())), default=None)

    def broker_pause(self) -> float:
        """Return the seconds for which nothing should be published; 0 or less for none."""
        return self._not_before - time.monotonic()

    def next_in(self) -> float | None:
        """Return the seconds until the first may be tried; ``None`` if there is none."""
        if not self._runs:
            return None
        first = min(run.not_before for run in self._runs.values())
        return max(0.0, first - time.monotonic())

    def ready(self, most: int) -> list[Claim]:
        """Return the claims to try together now: the oldest with few failures, else a single one.

        Returns none at the first call after a run that was tried alone has failed: then it is the
        turn of newly due runs.
        """
        if self._others_first:
            self._others_first = False
            return []
        now = time.monotonic()
        runs = [run for run in self._runs.values() if run.not_before <= now]
        together = [run for run in runs if run.failures < _TOGETHER]
        if together:
            together = self._with_their_turn(together)
            together.sort(key=lambda run: run.claim.moment)
            return [run.claim for run in together[:most]]
        runs.sort(key=lambda run: (run.failures, run.claim.moment))
        return [run.claim for run in runs[:1]]

    def _with_their_turn(self, runs: list[_UnsettledRun]) -> list[_UnsettledRun]:
        others = [run for run in runs if run.claim.entry not in self._postponed]
        if not others:
            self._postponed.clear()
        return others or runs

    def postpone(self, names: Iterable[str]) -> None:
        """Let all others have their turn before these: a pause holds them back.

        So each claim is asked about while the pause lasts, before what workers noted is forgotten.
        """
        self._postponed.update(names)

    def end_postponement(self) -> None:
        """Go on with the oldest."""
        self._postponed.clear()

    def published(self) -> None:
        """Note that the broker accepts messages."""
        if self._failures:
            logger.info("The broker accepts messages again")
        self._failures = 0
        self._accepted += 1

    def _blame(self, claim: Claim) -> _UnsettledRun:
        self.add(claim)
        run = self._runs[claim.entry]
        if not run.failures:
            run.accepted = self._accepted
        run.failures += 1
        self._others_first |= run.failures > _TOGETHER  # it was tried alone
        run.not_before = time.monotonic() + _pause_after(run.failures)
        return run

    def refused(self, claim: Claim, where: str, error: BaseException) -> bool:
        """Note that a message was refused that was tried alone, by what it goes to.

        Args:
            claim: Its run.
            where: What it goes to, in words.
            error: What the broker said.

        Returns:
            Whether the broker has accepted others since this one failed first. If not, nothing was
            noted: it may be the broker, see ``failed``.
        """
        run = self._runs.get(claim.entry)
        if run is None or not run.failures or run.accepted == self._accepted:
            return False
        run = self._blame(claim)
        now = time.monotonic()
        if now >= run.tell_at:
            run.tell_at = now + _TELL_EVERY
            logger.error(
                "Entry %r: %s does not take its message (%r), while the broker accepts others. "
                "This run waits and is tried again; nothing else is held up",
                claim.entry,
                where,
                error,
            )
        return True

    def failed(self, claims: Iterable[Claim], error: BaseException, *, waiting: int = 0) -> None:
        """Note an attempt that failed, and pause before the broker is tried again.

        Args:
            claims: The runs that may be to blame: they were tried, over a connection. All others
                are only added, or those that waited longest would be published last.
            error: What the first of them met.
            waiting: How many runs wait besides, which are not claimed.
        """
        now = time.monotonic()
        for claim in claims:
            self._blame(claim)
        self._failures += 1
        self._not_before = now + _pause_after(self._failures)
        if self._failures == 1:
            logger.error(
                "The broker does not accept messages: %r. %d runs wait and are published once it "
                "does; trying again",
                error,
                len(self._runs) + waiting,
            )


def _pause_after(failures: int) -> float:
    return backoff(failures, first=_SHORTEST_BACK_OFF, longest=_LONGEST_BACK_OFF)
