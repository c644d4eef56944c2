"""Real ``celery beat`` processes, and the app that they are started with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.candidates.participant import Participant
from tests.support.candidates.tenures import Tenure
from tests.support.processes import Children, wait_until
from tests.support.processes.waiting import PATIENCE

__all__ = ["SCHEDULER", "Beat", "leader_of", "write_app"]

SCHEDULER = "celery_safe_leader.LeaderScheduler"

_ELECTED = re.compile(r"Elected leader of .* \(token (\d+)")
_DEMOTED = re.compile(r"Demoted: .* \(token (\d+)\)")


_APP = """\
from datetime import datetime, timedelta, timezone

from celery import Celery
from celery.schedules import crontab, schedule, solar

app = Celery("shop", set_as_current=True)
app.conf.update({conf!r})

@app.task(name="shop.work")
def work(*args, **kwargs):
    pass

app.conf.beat_schedule = {schedule}
"""


def write_app(folder: Path, broker: str, schedule: str, *, more: str = "", **settings: Any) -> None:
    """Write ``app.py``: an app named "shop" with the tasks that tests send.

    Args:
        folder: Where beat is started.
        broker: URL.
        schedule: Source of ``beat_schedule``.
        more: More source, after the configuration.
        settings: For ``app.conf``; their ``repr`` is their source.
    """
    conf = {"broker_url": broker, "leader_ttl": 0.6, "leader_wait": 0.1, **settings}
    source = _APP.format(conf=conf, schedule=schedule)
    (folder / "app.py").write_text(source + more)


class Beat(Participant):
    """A ``celery beat`` process, watched by its log and its messages."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        *arguments: str,
        name: str = "beat",
        scheduler: str = SCHEDULER,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        program = ["celery", "-A", "app", "beat", "-S", scheduler, "-l", "INFO", *arguments]
        environment = {"PYTHONPATH": str(folder), **(env or {})}
        child = children.module(*program, env=environment, cwd=cwd or folder, name=name)
        super().__init__(name, child)

    @property
    def pid(self) -> int:
        """Process id, which is in the header ``origin`` of its messages."""
        return self.child.pid

    @property
    def tenures(self) -> list[Tenure]:
        """Its tenures by its log, which is read a little later than it is written."""
        found: list[Tenure] = []
        for line in self.child.timed_lines:
            if elected := _ELECTED.search(line.text):
                found.append(Tenure(self.name, int(elected[1]), line.at, line.at, over=False))
            elif _DEMOTED.search(line.text) and found:
                last = found[-1]
                found[-1] = Tenure(last.who, last.token, last.start, line.at)
        if found and not found[-1].over:
            last, end = found[-1], self.ended_at or time.monotonic()
            found[-1] = Tenure(last.who, last.token, last.start, end, over=self.ended)
        return found

    def lines(self, text: str) -> list[str]:
        """Return its lines that hold a text."""
        return [line for line in self.child.lines if text in line]

    def wait_ready(self) -> None:
        """Wait until it takes part."""
        self.child.wait_for_line("Taking part in the election", 30)

    def wait_standing_by(self) -> None:
        """Wait until it has looked, so that a resignation wakes it."""
        self.child.wait_for_line("Standing by for", 30)

    def terminate(self) -> float:
        """SIGTERM, and wait for its end; return the moment before."""
        now = self.note_end()
        assert self.child.stop() == 0, self.child.output
        return now


def leader_of(
    beats: Callable[[], Sequence[Beat]],
    timeout: float = PATIENCE,
    *,
    other_than: Beat | None = None,
) -> Beat:
    """Wait until one of them leads."""

    def leading() -> Beat | None:
        return next((b for b in beats() if b.leads and b is not other_than), None)

    def standing() -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in beats())

    found = wait_until(leading, timeout, lambda: f"a leader; {standing()}")
    assert found is not None
    return found
