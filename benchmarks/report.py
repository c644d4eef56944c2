"""What a run prints: tables to copy, and each goal beside what was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

__all__ = ["Report"]


class Report:
    """Prints at once what parts say, and at the end which goals hold."""

    def __init__(self) -> None:
        """Begin empty."""
        self._goals: list[tuple[str, str, str]] = []
        self._load = os.getloadavg()[0]

    def say(self, text: str) -> None:
        """Print one line."""
        print(text, flush=True)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table in Markdown."""
        lines = [head, ["---"] * len(head), *rows]
        self.say("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")

    def at_least(
        self, goal: str, measured: float, limit: float, unit: str = "", *, beside: str = ""
    ) -> None:
        """Compare a figure with the least that it should be.

        Args:
            goal: What it is a figure of.
            measured: The figure.
            limit: The least.
            unit: Of both.
            beside: The yardstick, if it is to be printed beside the figure.
        """
        head = f"{goal}: at least {limit:g}{unit}"
        self._add(head, measured, unit, beside, holds=measured >= limit)

    def at_most(
        self, goal: str, measured: float, limit: float, unit: str = "", *, beside: str = ""
    ) -> None:
        """Compare a figure with the most that it should be; see ``at_least``."""
        head = f"{goal}: at most {limit:g}{unit}"
        self._add(head, measured, unit, beside, holds=measured <= limit)

    def left_out(self, goal: str, why: str) -> None:
        """Say that a goal was not measured."""
        self._goals.append((goal, "not measured", why))

    def goals(self) -> None:
        """Print all goals."""
        self.table(("goal", "measured", ""), self._goals)

    def machine(self) -> None:
        """Print on what all this was measured."""
        packages = ", ".join(f"{each} {version(each)}" for each in ("celery", "kombu", "redis"))
        self.say(
            f"Python {platform.python_version()}, {packages}; {_processor()}, "
            f"{os.cpu_count()} cores, load before the run {self._load:.1f}, "
            f"after it {os.getloadavg()[0]:.1f}"
        )

    def _add(self, goal: str, measured: float, unit: str, beside: str, *, holds: bool) -> None:
        figure = f"{measured:.0f}" if abs(measured) >= 100 else f"{measured:.4g}"
        found = f"{figure}{unit}; {beside}" if beside else f"{figure}{unit}"
        self._goals.append((goal, found, "holds" if holds else "**does not hold**"))


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
