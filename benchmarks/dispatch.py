"""Dispatches per second, in turn within one run, against a plain loop of ``send_task``."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from benchmarks.contenders import (
    CONTENDERS,
    LEADER,
    LOOP,
    PEERS,
    Contender,
    Measured,
    TooLateError,
)
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.servers import Server

__all__ = ["Rates", "main"]

_LOADS = (100, 1_000, 10_000, 100_000)
_QUICK_LOADS = (100, 1_000, 10_000)
_TURNS = 3
_ELECTION = 0.6
"""Seconds for the elections before."""


@dataclass
class Rates:
    """Messages a second of some contenders with some loads, one figure for each turn."""

    stage: Rig
    yardstick: str = LOOP.name
    each: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    costs: dict[tuple[str, int], list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of the sender's processor for a message: less dependent on what else runs."""
    _per_entry: dict[str, float] = field(default_factory=dict)

    def turn(self, loads: Sequence[int], contenders: Sequence[Contender]) -> None:
        """Measure all contenders once with each load."""
        for entries in loads:
            for contender in contenders:
                if entries <= contender.most:
                    measured = self._measure(contender, entries)
                    self.each[contender.name, entries].append(measured.rate)
                    self.costs[contender.name, entries].append(measured.cost)

    def _measure(self, contender: Contender, entries: int) -> Measured:
        # The entries are due at a moment that has to be chosen before it is known how long a
        # contender needs until it knows them all.
        election = _ELECTION if contender.elects else 0.0
        lead = 0.3 + contender.early + election + entries * self._per_entry.get(contender.name, 0)
        while True:
            self.stage.clear()
            began = time.monotonic()
            try:
                measured = contender.measure(self.stage, entries, lead)
            except TooLateError:
                lead = 1.4 * (time.monotonic() - began) + 0.5
            else:
                if entries >= 1_000:
                    needed = max(0.0, measured.getting_ready - election)
                    self._per_entry[contender.name] = 1.3 * needed / entries
                return measured

    def rate(self, name: str, entries: int) -> float:
        """Return the median of all turns."""
        return median(self.each[name, entries])

    def ratio(self, name: str, entries: int, to: str = "") -> float:
        """Return the median of the ratios within a turn: the machine is not always as fast.

        Args:
            name: Of a contender.
            entries: The load.
            to: To whom it is compared; by default the yardstick.
        """
        others = self.each[to or self.yardstick, entries]
        pairs = zip(self.each[name, entries], others, strict=True)
        return median(one / other for one, other in pairs)

    def cost(self, name: str, entries: int) -> float:
        """Return the median of the costs of all turns."""
        return median(self.costs[name, entries])

    def beside(self, entries: int) -> str:
        """Return the rate of the yardstick, to be printed beside a ratio."""
        return f"{self.yardstick} {self.rate(self.yardstick, entries):,.0f}/s"

    def has(self, name: str, entries: int) -> bool:
        """Tell whether this was measured."""
        return (name, entries) in self.each

    def table(self, report: Report, loads: Sequence[int], names: Sequence[str]) -> None:
        """Print rates, in parentheses the ratios to the loop; and what a message costs us."""
        rows = [
            [f"{entries:,}", *(self._cell(name, entries) for name in names)] for entries in loads
        ]
        report.table(("due", *names), rows)
        for name in (self.yardstick, LEADER.name):
            each = [f"{1e6 * self.cost(name, entries):.0f} ({entries:,})" for entries in loads]
            report.say(f"{name}, µs of the sender's processor for a message: {', '.join(each)}\n")

    def _cell(self, name: str, entries: int) -> str:
        if not self.has(name, entries):
            return ""
        rate = f"{self.rate(name, entries):,.0f}/s"
        return rate if name == self.yardstick else f"{rate} ({self.ratio(name, entries):.2g})"


def _judge(report: Report, rates: Rates, loads: Sequence[int]) -> None:
    batched = [entries for entries in loads if entries >= 1_000]
    ours = {entries: rates.ratio(LEADER.name, entries) for entries in loads}
    lowest = min(batched, key=lambda entries: ours[entries])
    report.at_least(
        f"dispatches to Redis, from {batched[0]:,} to {batched[-1]:,} due, the least (aim: 5)",
        ours[lowest],
        3.5,
        " × the loop",
        beside=rates.beside(lowest),
    )
    flat = f"cost of a dispatch, {batched[0]:,} to {batched[-1]:,} due, the largest over the least"
    for what, costs in (
        ("time", [1 / ours[entries] for entries in batched]),
        ("processor", [rates.cost(LEADER.name, entries) for entries in batched]),
    ):
        report.at_most(f"{flat} ({what})", 100 * (max(costs) / min(costs) - 1), 15, " %")
    peers = [
        (rates.ratio(LEADER.name, entries, peer.name), f"{peer.name}, {entries:,} due")
        for entries in loads
        for peer in PEERS
        if rates.has(peer.name, entries)
    ]
    least, which = min(peers)
    report.at_least(f"faster than every peer; the nearest is {which}", least, 1, " × its rate")


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print all figures."""
    loads = _QUICK_LOADS if quick else _LOADS
    names = [contender.name for contender in CONTENDERS]
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        rates = Rates(Rig(server.url, server.url, Path(folder)))
        if quick:
            rates.turn(loads[:-1], CONTENDERS)
            rates.turn(loads[-1:], (LOOP, LEADER))
        for number in range(0 if quick else _TURNS):
            began = time.monotonic()
            rates.turn(loads, CONTENDERS)
            report.say(f"turn {number + 1} of {_TURNS}: {time.monotonic() - began:.0f} s")
        rates.table(report, loads, names)
        _judge(report, rates, loads)
        if full:
            _everyone(report, rates.stage)


def _everyone(report: Report, stage: Rig) -> None:
    """Measure the largest load also with those that need minutes for it, once."""
    rates, entries = Rates(stage), _LOADS[-1]
    willing = [
        replace(each, most=entries) for each in CONTENDERS if each.name != "PersistentScheduler"
    ]
    rates.turn((entries,), willing)
    rates.table(report, (entries,), [each.name for each in willing])
