"""Moves the beats and workers of a stage from one release to another, one by one, and back."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from tests.soak.stage import BEATS, WORKERS, SoakStage
from tests.support.celery.beats import Beat
from tests.support.celery.chaos import LOADED
from tests.support.processes import Child
from tests.support.processes.child import ROOT

__all__ = ["Rollout"]

LONGEST_END = 60.0
"""Seconds. Celery waits up to 30 for a child whose result was on the way; see ``Child.stop()``."""


class Rollout:
    """Upgrades everything in an order of its own, then takes everything back in another.

    Args:
        stage: With all of the older release.
        older: The folder that it is imported from.
        seed: Of the two orders.
    """

    def __init__(self, stage: SoakStage, older: Path, seed: int) -> None:
        choice = random.Random(f"rollout {seed}")
        everything = ["beat"] * BEATS + ["worker"] * WORKERS
        there = [(what, older, None) for what in choice.sample(everything, len(everything))]
        back = [(what, None, older) for what in choice.sample(everything, len(everything))]
        self._moves: list[tuple[str, Path | None, Path | None]] = [*there, *back]
        self._stage = stage
        self._older = older
        self._ending: list[Child] = []
        self.done = 0
        """How many were restarted with the other release."""

    def follow(self, passed: float) -> None:
        """Do the next move, if it is time for it.

        Args:
            passed: The part of the time that has passed, from 0 to 1.
        """
        # Evenly, with a stretch of the older release at both ends and of this one in between.
        due = int(passed * (len(self._moves) + 1))
        if self.done < min(due, len(self._moves)):
            self._move(*self._moves[self.done])

    def finish(self) -> None:
        """Do the moves that are left."""
        while self.done < len(self._moves):
            self._move(*self._moves[self.done])
        for worker in self._ending:
            assert worker.wait(LONGEST_END) == 0, worker.output

    def _move(self, what: str, old: Path | None, new: Path | None) -> None:
        if what == "beat":
            beat = self._running_beats(old)[0]
            beat.wait_ready()  # the signal would kill it while it still imports
            beat.terminate()
            self._stage.fleet.start_beat(release=new).wait_ready()
        else:
            self._restart_worker(old, new)
        self.done += 1

    def _restart_worker(self, old: Path | None, new: Path | None) -> None:
        fleet = self._stage.fleet
        worker = next(
            w for w in fleet.workers if fleet.release_of(w) == old and w not in self._ending
        )
        worker.signal(signal.SIGTERM)
        self._ending.append(worker)  # it may take half a minute, in which the faults go on
        self._stage.start_worker(new)
        fleet.workers[-1].wait_for_line("ready.", 60)

    def _running_beats(self, release: Path | None) -> list[Beat]:
        fleet = self._stage.fleet
        running = [b for b in fleet.beats if not b.ended and fleet.release_of(b) == release]
        # One that stands still would have to be woken before it ends.
        return sorted(running, key=lambda beat: beat.paused)

    def tenures(self, release: Path | None) -> int:
        """Return how many tenures beats of a release had."""
        fleet = self._stage.fleet
        beats = [beat for beat in fleet.beats if fleet.release_of(beat) == release]
        return sum(len(beat.lines(LOADED)) for beat in beats)

    def problems(self) -> list[str]:
        """Say what is wrong with the way the two releases were mixed."""
        fleet = self._stage.fleet
        found = [
            f"no beat of {release or 'this release'} ever led"
            for release in (self._older, None)
            if not self.tenures(release)
        ]
        children: list[tuple[Child, Path | None]] = [
            *((beat.child, fleet.release_of(beat)) for beat in fleet.beats),
            *((worker, fleet.release_of(worker)) for worker in fleet.workers),
        ]
        for child, release in children:
            expected = f"RELEASE {(release or ROOT) / 'celery_safe_leader'}/"
            if not any(line.startswith(expected) for line in child.lines):
                found.append(f"{child.name} did not say that it runs {release or 'this release'}")
        return found
