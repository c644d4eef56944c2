"""Runs that are claimed and wait for their moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from celery_safe_leader._dispatch.agenda import Agenda
from celery_safe_leader._dispatch.entry import Entry
from celery_safe_leader._ledger.codec import Claim

__all__ = ["Run", "Waiting"]


@dataclass(slots=True)
class Run:
    """One occurrence on its way."""

    item: Entry
    claim: Claim
    built: Any = None
    """Its message; ``None`` while it may not be built before its moment."""
    given_up: bool = False
    """It cannot be built, now or later."""
    is_fresh: bool = True
    """Claimed by this leader in this tenure, so that nobody can have published it yet."""


class Waiting:
    """Claimed runs in the order of their moments. For one thread."""

    def __init__(self) -> None:
        """Begin without any."""
        self._jobs: dict[str, Run] = {}
        self._order = Agenda()

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, jobs: Iterable[Run]) -> None:
        """Hold runs; at most one for each entry."""
        for job in jobs:
            self._jobs[job.item.name] = job
            self._order.put(job.item.name, job.claim.moment)

    def next_us(self) -> int | None:
        """Return the earliest moment."""
        return self._order.next_us()

    def take(self, until_us: int, most: int) -> list[Run]:
        """Remove and return up to ``most`` runs of moments up to then, the oldest first."""
        return [self._jobs.pop(name) for _, name in self._order.take(until_us, most)]

    def withdraw(self, names: Iterable[str] | None) -> list[Run]:
        """Remove and return those of some entries, or all."""
        wanted = self._jobs if names is None else names
        jobs = [self._jobs.pop(name) for name in tuple(wanted) if name in self._jobs]
        for job in jobs:
            self._order.remove(job.item.name)
        return jobs

    def clear(self) -> None:
        """Forget all."""
        self._jobs.clear()
        self._order.clear()
