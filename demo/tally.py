"""Counts runs lost and runs doubled. Pure: knows neither Django nor Celery.

Each message says in ``leader_covers`` which due moments (first, last) its run stands for: usually
one, several after nobody led for a while. Laid end to end, the ranges of an entry must have neither
a gap (a run was lost) nor an overlap (one was doubled), and must stay on the entry's grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Execution:
    """One execution, and the due moments it stood for, in UTC microseconds."""

    occurrence: str
    first: int
    last: int


@dataclass(frozen=True)
class Tally:
    """The count of one entry of the schedule."""

    entry: str
    runs: int
    """Executions."""
    moments: int
    """Due moments that they stood for."""
    lost: int = 0
    """Due moments that no execution stood for."""
    doubled: int = 0
    """Due moments that more than one stood for."""
    off_grid: int = 0
    """Executions for a moment that was not due."""
    exact: bool = True
    """False if the messages did not say what they stand for and the clock had to do."""

    @property
    def ok(self) -> bool:
        """Whether each due moment was served once."""
        return not self.problem

    @property
    def problem(self) -> str:
        """What is wrong, in words; empty if nothing is."""
        if not self.exact:
            return "its messages do not say which moments they stand for (no leader_covers)"
        found = {"lost": self.lost, "doubled": self.doubled, "off its grid": self.off_grid}
        return ", ".join(f"{count} {what}" for what, count in found.items() if count)


@dataclass(frozen=True)
class Window:
    """A stretch of time in which runs must not be missing, in UTC microseconds."""

    start: int
    end: int


def window(elected_at: float, stopped_at: float) -> Window:
    """Return the window between the first election and the order to stop (seconds since 1970).

    A second is left out at the start, for a new leader's first look at the schedule, and half a
    second at the end, for a run that was due just before the leader stopped.
    """
    return Window(int((elected_at + 1) * MICROSECONDS), int((stopped_at - 0.5) * MICROSECONDS))


def tally(
    entry: str, executions: Iterable[Execution], interval: int, window: Window | None = None
) -> Tally:
    """Count one entry.

    Args:
        entry: Name of the entry.
        executions: All of its executions, in any order.
        interval: Microseconds between two due moments.
        window: If given, runs missing at its two ends count as lost, too.
    """
    runs = sorted(executions, key=lambda run: (run.first, run.last))
    lost = doubled = off_grid = 0
    seen: set[str] = set()
    reach: int | None = None
    for run in runs:
        if run.occurrence in seen:
            doubled += 1
            continue
        seen.add(run.occurrence)
        if reach is not None and run.first <= reach:
            doubled += (min(run.last, reach) - run.first) // interval + 1
        elif reach is not None:
            steps, beside = divmod(run.first - reach, interval)
            lost += steps if beside else steps - 1
            off_grid += bool(beside)
        reach = run.last if reach is None else max(reach, run.last)
    if window is not None:
        lost += _missing_at_the_ends(runs, interval, window)
    moments = sum((run.last - run.first) // interval + 1 for run in runs)
    return Tally(entry, len(runs), moments, lost, doubled, off_grid)


def _missing_at_the_ends(runs: list[Execution], interval: int, window: Window) -> int:
    """Count due moments of the window before the first run and after the last one."""
    if not runs:
        return max(0, window.end // interval - window.start // interval)
    head = (runs[0].first - window.start) // interval
    tail = (window.end - max(run.last for run in runs)) // interval
    return max(0, head) + max(0, tail)


def tally_by_clock(entry: str, times: Iterable[int], interval: int) -> Tally:
    """Count one entry by the times at which its runs were executed: an estimate, never ``ok``."""
    ordered = sorted(times)
    gaps = [later - earlier for earlier, later in pairwise(ordered)]
    lost = sum(max(0, round(gap / interval) - 1) for gap in gaps)
    doubled = sum(gap < interval / 2 for gap in gaps)
    return Tally(entry, len(ordered), len(ordered), lost, doubled, exact=False)


def table(tallies: Iterable[Tally]) -> str:
    """Show the counts as text."""
    lines = [f"{'entry':<16}{'runs':>6}{'stand for':>11}{'lost':>6}{'doubled':>9}{'off grid':>10}"]
    for count in tallies:
        mark = "" if count.exact else "  estimated by the clock: messages without leader_covers"
        lines.append(
            f"{count.entry:<16}{count.runs:>6}{count.moments:>11}{count.lost:>6}"
            f"{count.doubled:>9}{count.off_grid:>10}{mark}"
        )
    return "\n".join(lines)
