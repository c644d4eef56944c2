"""1,000 entries that come due together, and how late their messages reach the broker."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.stage import Rig

__all__ = ["ENTRIES", "Arrival", "Phase", "at_percent", "in_words", "interval"]

_ROOT = Path(__file__).resolve().parents[1]
ENTRIES = 1_000
_AFTER = 2.0
"""Seconds for what is late."""


def interval(number: int) -> int:
    """Return every how many seconds an entry runs."""
    return number % 60 + 1


@dataclass(frozen=True)
class Arrival:
    """One message, as the reader saw it."""

    late: float
    """Milliseconds between its moment and its arrival."""
    moment: float
    """Seconds since 1970."""
    coalesced: bool
    """Whether it stands for more than one moment."""


@dataclass
class Phase:
    """Some seconds in which the entries run, from a whole second on."""

    stage: Rig
    seconds: int
    warm_up: int = 5
    """Seconds for the election, in which nothing is measured."""
    start: float = field(default_factory=lambda: float(int(time.time())))

    @property
    def _first(self) -> float:
        return self.start + self.warm_up

    @property
    def end(self) -> float:
        """The last moment that is measured."""
        return self._first + self.seconds

    def due_at(self, second: int) -> int:
        """Return how many entries are due so many seconds after the start."""
        return sum(second % interval(number) == 0 for number in range(ENTRIES))

    @property
    def expected(self) -> int:
        """How many runs are due in the time that is measured."""
        first, last = self.warm_up + 1, self.warm_up + self.seconds
        return sum(self.due_at(second) for second in range(first, last + 1))

    def run(
        self, *, package: Path | None = None, raw_socket: bool = False
    ) -> dict[str, list[Arrival]]:
        """Let a leader dispatch, and read what arrives.

        Args:
            package: Folder of the package that leads, if it is not this one.
            raw_socket: Let the same bytes be written to a socket as well, half a second off.

        Returns:
            The arrivals of the time that is measured, in the order of their lateness: of the
            ``leader`` and of the ``raw socket``.
        """
        stage, first = self.stage, str(self._first)
        with contextlib.ExitStack() as stack:
            reader = self._child(stack, "reading", stage.queue, str(self.end + _AFTER))
            if raw_socket:
                counts = [self.due_at(self.warm_up + 1 + second) for second in range(self.seconds)]
                self._child(stack, "raw_socket", stage.queue, first, json.dumps(counts))
            stage.hold_election()
            times = (str(self.start), str(self.end))
            leader = self._child(
                stack, "leading", stage.state, stage.queue, *times, package=package
            )
            out, _ = reader.communicate(timeout=self.seconds + 60)
            if leader.wait(30):
                raise RuntimeError(f"the leader ended with {leader.returncode}")
        return self._arrivals(out)

    def _child(
        self, stack: contextlib.ExitStack, module: str, *args: str, package: Path | None = None
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", f"benchmarks.{module}", self.stage.broker, *args]
        child = stack.enter_context(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE if module == "reading" else None,
                text=True,
                # The folder in which a module is run comes first in its path.
                cwd=package or _ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
            )
        )
        stack.callback(child.kill)
        return child

    def _arrivals(self, lines: str) -> dict[str, list[Arrival]]:
        found: dict[str, list[Arrival]] = defaultdict(list)
        for line in lines.splitlines():
            whose, at, first_us, last_us = json.loads(line)
            moment = last_us / 1e6
            if self._first < moment <= self.end:
                arrival = Arrival(1000 * (at - moment), moment, first_us != last_us)
                found[whose].append(arrival)
        for each in found.values():
            each.sort(key=lambda arrival: arrival.late)
        return found


def at_percent(arrivals: Sequence[Arrival], percent: float) -> float:
    """Return within how many milliseconds so many of the arrivals were there."""
    return arrivals[int(len(arrivals) * percent / 100)].late


def in_words(arrivals: Sequence[Arrival]) -> str:
    """Return the figures in one clause."""
    half = median(arrival.late for arrival in arrivals)
    return (
        f"median {half:.2f} ms, 99 % within {at_percent(arrivals, 99):.2f} ms, "
        f"at most {arrivals[-1].late:.1f} ms"
    )
