"""How late 1,000 entries arrive at the broker, and whether any run is missing.

In one script where broker and ledger are one Redis, beside bytes that are written to a socket; and
by write-ahead to another Redis and to RabbitMQ, with all of the history also as it was before.
"""

from __future__ import annotations

import tempfile
import uuid
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks.phase import ENTRIES, Arrival, Phase, at_percent, in_words
from benchmarks.reading import RAW
from benchmarks.report import Report
from benchmarks.stage import Rig, server_kind
from tests.support.older_release import BASE, unpacked
from tests.support.servers import Server
from tests.support.servers.rabbitmq import rabbitmq_urls

__all__ = ["main"]

_GOAL = f"lateness of {ENTRIES:,} entries in phase"
_NOW, _BEFORE = "now", f"at {BASE}"


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print the figures."""
    with Server(server_kind()) as server, tempfile.TemporaryDirectory() as folder:
        stage = Rig(server.url, server.url, Path(folder))
        _one_script(report, Phase(stage, 12 if quick else 60))
        with Server(server_kind()) as other:
            stages = {"another Redis": Rig(other.url, server.url, Path(folder))}
            for url in rabbitmq_urls():
                queue = f"bench-{uuid.uuid4().hex}"
                stages["RabbitMQ"] = Rig(url, server.url, Path(folder), queue)
            for name, each in stages.items():
                _write_ahead(report, name, each, quick=quick, full=full)


def _one_script(report: Report, phase: Phase) -> None:
    phase.stage.clear()
    arrivals = phase.run(raw_socket=True)
    ours, limit = arrivals["leader"], arrivals[RAW]
    report.say(
        f"{ENTRIES:,} entries of 1 s to 60 s in phase, {phase.seconds} s: {in_words(ours)}; "
        f"{len(ours)} of {phase.expected} runs, {_coalesced(ours)} of them for more than one "
        f"moment\n\nThe same bytes, written to a socket: {in_words(limit)}; {len(limit)} messages\n"
    )
    for name, percent, most in (("median", 50, 1.2), ("99 %", 99, 5)):
        beside = f"a raw socket {at_percent(limit, percent):.2f} ms"
        late = at_percent(ours, percent)
        report.at_most(f"{_GOAL}, {name}", late, most, " ms", beside=beside)
    report.at_most(f"{_GOAL}: runs missing", phase.expected - len(ours), 0)


def _write_ahead(report: Report, name: str, stage: Rig, *, quick: bool, full: bool) -> None:
    """Print how late what is claimed first arrives; with ``full`` also before and now, in turn."""
    found: dict[str, list[Arrival]] = defaultdict(list)
    missing = 0
    with tempfile.TemporaryDirectory() as folder:
        releases: dict[str, Path | None] = {_NOW: None}
        if full:
            releases[_BEFORE] = unpacked(Path(folder) / BASE)
        for _ in range(3 if full else 1):
            for release, package in releases.items():
                stage.clear()
                phase = Phase(stage, 12 if quick else 20)
                try:
                    arrivals = phase.run(package=package)["leader"]
                finally:
                    stage.clear()
                found[release] += arrivals
                missing += phase.expected - len(arrivals)
    for release, arrivals in found.items():
        arrivals.sort(key=lambda arrival: arrival.late)
        report.say(f"By write-ahead to {name}, {release}: {in_words(arrivals)}\n")
    report.at_most(f"{_GOAL}, by write-ahead to {name}: runs missing", missing, 0)


def _coalesced(arrivals: Sequence[Arrival]) -> int:
    return sum(arrival.coalesced for arrival in arrivals)
