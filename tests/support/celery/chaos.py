"""Beats and workers of one app, and the count of what was executed in the end.

Every execution is a line in a file, written by the task itself. Each names the due moments that it
stands for, so whether a run was lost or doubled is not a question of timing.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.cleanup import Closes

__all__ = ["LOADED", "MICROSECONDS", "Execution", "Fleet", "Grid", "doubles", "problems"]

MICROSECONDS = 1_000_000

LOADED = "Loaded the ledger of"
"""Begins the line that a beat logs once it may dispatch."""

_DROPPED = "Dropped a second publication"

_INSTALL = """
import celery_safe_leader

celery_safe_leader.install(app)
"""

_TASK = """
import os, time

@app.task(name="shop.record", bind=True, ignore_result=True)
def record(self, entry):
    began, request = time.time(), self.request
    fields = (
        entry, request.get("leader_occurrence"), request.get("leader_covers"),
        request.get("leader_publication"), request.get("leader_token"), f"{{began:.6f}}",
    )
    line = "\\t".join(map(str, fields)) + "\\n"
    file = os.open({path!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)
"""


@dataclass(frozen=True)
class Grid:
    """When an entry is due: at ``start`` and every ``step`` afterwards (microseconds)."""

    start: int
    step: int

    def since(self, moment: int) -> Grid:
        """Return its part from a moment on."""
        passed = max(0, -(-(moment - self.start) // self.step))
        return Grid(self.start + passed * self.step, self.step)


@dataclass(frozen=True)
class Execution:
    """A line of the file."""

    entry: str
    occurrence: str
    first: int
    last: int
    """The due moments that it stands for, in microseconds since 1970."""
    publication: str
    token: int
    began: float
    """``time.time()`` when the task began."""

    @classmethod
    def of_line(cls, line: str) -> Execution:
        """Read a line."""
        entry, occurrence, covers, publication, token, began = line.split("\t")
        first, last = map(int, covers.split(","))
        return cls(entry, occurrence, first, last, publication, int(token), float(began))


def doubles(executions: Iterable[Execution]) -> list[str]:
    """List the occurrences that were executed more than once."""
    counts = Counter(run.occurrence for run in executions)
    return [occurrence for occurrence, count in counts.items() if count > 1]


def problems(
    executions: Iterable[Execution],
    grids: Mapping[str, Grid],
    until: int,
    *,
    may_double: bool = False,
) -> list[str]:
    """Say what is wrong with the executions; nothing, if each due moment was served once.

    Args:
        executions: All of them, in any order.
        grids: When each entry is due. The first moment must have been served, too.
        until: Up to which moment, in microseconds, every due moment must have been served.
        may_double: Whether one occurrence may have been executed again. Another one for the same
            moments is an error all the same.
    """
    runs = list(executions)
    found = [f"{run.entry}: nobody knows this entry" for run in runs if run.entry not in grids]
    if not may_double:
        found += [f"{occurrence} was executed more than once" for occurrence in doubles(runs)]
    by_entry = defaultdict(list)
    for run in {run.occurrence: run for run in runs}.values():
        by_entry[run.entry].append(run)
    for entry, grid in grids.items():
        found += _problems_of(entry, by_entry[entry], grid, until)
    return found


def _problems_of(entry: str, runs: list[Execution], grid: Grid, until: int) -> list[str]:
    expected = grid.start
    found = []
    for run in sorted(runs, key=lambda run: (run.first, run.last)):
        if run.first != expected:
            kind = "lost" if run.first > expected else "doubled"
            found.append(f"{entry}: {kind} between {expected} and {run.first} (token {run.token})")
        if run.last < run.first or (run.last - grid.start) % grid.step:
            found.append(f"{entry}: {run.first} to {run.last} is not on its grid")
        expected = max(expected, run.last + grid.step)
    if expected <= until:
        found.append(f"{entry}: lost from {expected} to {until}")
    return found


class Fleet(Closes):
    """Beats and workers of one app.

    Args:
        folder: For the app and the file.
        broker: URL for the workers.
        election: URL of the election's and the ledger's server.
        steps: Seconds between two runs of each entry.
        beat_broker: URL for the beats, if theirs is another way to the broker.
        phase: Seconds by which each entry's first run is later than that of the one before it.
        install: Whether the workers have ``install(app)``.
        options: Source of each entry's options.
        more: More source of the app.
        settings: More settings of the app.
    """

    def __init__(
        self,
        folder: Path,
        broker: str,
        election: str,
        steps: Mapping[str, float],
        *,
        beat_broker: str = "",
        phase: float = 0.0,
        install: bool = True,
        options: str = "{}",
        more: str = "",
        **settings: object,
    ) -> None:
        self._folder = folder
        self._children = Children()
        self._file = folder / "executions"
        self._file.touch()
        self._beat_broker = beat_broker or broker
        self.broker = broker
        self.beats: list[Beat] = []
        self.workers: list[Child] = []
        self._releases: dict[Beat | Child, Path | None] = {}
        began = time.time_ns() // 1000
        self.grids = {
            name: Grid(began + round(index * phase * MICROSECONDS), round(step * MICROSECONDS))
            for index, (name, step) in enumerate(steps.items())
        }
        write_app(
            folder,
            broker,
            f"{{{', '.join(map(self._entry, steps, itertools.repeat(options)))}}}",
            more=_BROKER + _INSTALL * install + _TASK.format(path=str(self._file)) + more,
            leader_url=election,
            worker_send_task_events=False,
            **settings,
        )

    def _entry(self, name: str, options: str) -> str:
        grid = self.grids[name]
        # One step before the first moment, so that the entry does not begin when beat does.
        last = grid.start - grid.step
        return (
            f'"{name}": {{"task": "shop.record", "schedule": {grid.step / MICROSECONDS}, '
            f'"kwargs": {{"entry": "{name}"}}, "options": {options}, "last_run_at": '
            f"datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds={last})}}"
        )

    def start_beat(self, *, release: Path | None = None) -> Beat:
        """Start another beat.

        Args:
            release: Folder that the package is imported from, if it is not the present one.
        """
        env = {"SHOP_BROKER": self._beat_broker, "PYTHONPATH": self._path(release)}
        beat = Beat(self._children, self._folder, name=f"beat {len(self.beats) + 1}", env=env)
        self.beats.append(beat)
        self._releases[beat] = release
        return beat

    def start_worker(self, *arguments: str, release: Path | None = None) -> Child:
        """Start another worker. ``release`` is as for a beat."""
        name = f"worker {len(self.workers) + 1}"
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
        program = ["celery", "-A", "app", "worker", "-l", "INFO", "-n", f"{name[7:]}@shop", *quiet]
        env = {"PYTHONPATH": self._path(release), "SHOP_BROKER": self.broker}
        child = self._children.module(*program, *arguments, env=env, cwd=self._folder, name=name)
        self.workers.append(child)
        self._releases[child] = release
        return child

    def release_of(self, started: Beat | Child) -> Path | None:
        """Return the folder that a beat or worker imports the package from, as it was given."""
        return self._releases[started]

    def _path(self, release: Path | None) -> str:
        return os.pathsep.join(str(folder) for folder in (self._folder, release) if folder)

    def wait_working(self) -> None:
        """Wait until all workers consume."""
        for worker in self.workers:
            worker.wait_for_line("ready.", 30)

    def leader(self, timeout: float = 30.0, *, other_than: Beat | None = None) -> Beat:
        """Wait until one leads."""
        return leader_of(lambda: self.beats, timeout, other_than=other_than)

    def executions(self) -> list[Execution]:
        """Return all executions so far, in their order."""
        lines = self._file.read_text().split("\n")
        return [Execution.of_line(line) for line in lines[:-1]]

    def served(self, until: int) -> bool:
        """Return whether the last moments of all entries up to ``until`` were served."""
        last = dict.fromkeys(self.grids, 0)
        for run in self.executions():
            last[run.entry] = max(last[run.entry], run.last)
        return all(
            last[name] + grid.step > until or grid.start > until
            for name, grid in self.grids.items()
        )

    def wait_served(self, until: int, timeout: float = 30.0) -> None:
        """Wait until the last moments of all entries up to ``until`` were served."""
        wait_until(lambda: self.served(until), timeout, self.standing, interval=0.1)

    def standing(self) -> str:
        """Return the last lines of all processes."""
        ends = [child.output[-3000:] for child in self.workers]
        ends += [beat.child.output[-3000:] for beat in self.beats]
        return "every entry served; " + "\n\n".join(ends)

    def stop_beats(self) -> None:
        """SIGTERM those that run."""
        for beat in self.beats:
            if not beat.ended:
                # One that has just been started ends by the signal itself until it can handle it.
                beat.wait_ready()
                beat.terminate()

    def wait_idle(self, quiet: float = 2.0) -> None:
        """Wait until workers have executed nothing for a while."""
        last, since = -1, time.monotonic()
        deadline = since + 60
        while time.monotonic() - since < quiet:
            assert time.monotonic() < deadline, "workers still have work although no beat runs"
            count = self._file.stat().st_size + self.dropped
            if count != last:
                last, since = count, time.monotonic()
            time.sleep(0.1)

    @property
    def dropped(self) -> int:
        """How many second publications the workers dropped."""
        return sum(_DROPPED in line for worker in self.workers for line in worker.lines)

    @property
    def takeovers(self) -> int:
        """How many tenures began with a loaded ledger."""
        return sum(len(beat.lines(LOADED)) for beat in self.beats)

    def complaints(self) -> list[str]:
        """Return what beats and workers logged that none should: tracebacks, other failures."""
        children = [*self.workers, *(beat.child for beat in self.beats)]
        words = ("Traceback", "CRITICAL", "failed unexpectedly", "executed twice")
        return [
            f"{child.name}: {line}"
            for child in children
            for line in child.lines
            if any(word in line for word in words)
        ]

    def close(self) -> None:
        """End all."""
        self._children.close()


_BROKER = """
import os
app.conf.broker_url = os.environ["SHOP_BROKER"]
"""
