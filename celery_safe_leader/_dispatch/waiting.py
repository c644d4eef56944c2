"""Runs that wait for their moment."""

from __future__ import annotations

from collections.abc import Iterable

from celery_safe_leader._dispatch.agenda import Agenda
from celery_safe_leader._dispatch.run import Run

__all__ = ["Waiting"]


class Waiting:
    """Runs in the order of their moments, at most one for each entry. For one thread."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._order = Agenda()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, runs: Iterable[Run]) -> None:
        """Add runs; one of an entry that is there already replaces it."""
        for run in runs:
            self._runs[run.entry.name] = run
            self._order.put(run.entry.name, run.claim.moment)

    def next_us(self) -> int | None:
        """Return the earliest moment, if there is any."""
        return self._order.next_us()

    def pop_due(self, until_us: int, most: int) -> list[Run]:
        """Remove and return up to ``most`` runs with a moment up to ``until_us``, oldest first."""
        return [self._runs.pop(name) for _, name in self._order.pop_due(until_us, most)]

    def withdraw(self, names: Iterable[str] | None) -> list[Run]:
        """Remove and return the runs of some entries; ``None``: of all."""
        wanted = self._runs if names is None else names
        runs = [self._runs.pop(name) for name in tuple(wanted) if name in self._runs]
        for run in runs:
            self._order.remove(run.entry.name)
        return runs

    def clear(self) -> None:
        """Remove all."""
        self._runs.clear()
        self._order.clear()
