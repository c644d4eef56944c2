"""A process that takes part in an election, as a test handles it."""

from __future__ import annotations

import time

from tests.support.candidates.tenures import Tenure
from tests.support.processes import Child

__all__ = ["Participant"]


class Participant:
    """A child that leads at times, and that tests pause, resume and kill."""

    def __init__(self, name: str, child: Child) -> None:
        self.name = name
        self.child = child
        self.paused = False
        self.ended = False
        """Whether the test itself ended it."""
        self.ended_at = 0.0

    @property
    def tenures(self) -> list[Tenure]:
        """Its tenures, oldest first."""
        raise NotImplementedError

    @property
    def leads(self) -> bool:
        """Whether it led when it last spoke; of one that cannot speak, no."""
        if self.paused or self.ended:
            return False
        tenures = self.tenures
        return bool(tenures) and not tenures[-1].over

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        self.child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.child.resume()
        self.paused = False

    def note_end(self) -> float:
        """Note that the test ends it now, and return the moment."""
        self.ended, self.ended_at = True, time.monotonic()
        return self.ended_at

    def kill(self) -> float:
        """SIGKILL; return the moment before."""
        now = self.note_end()
        self.child.kill()
        return now
