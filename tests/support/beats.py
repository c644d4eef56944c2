"""Real ``celery beat`` processes, and the queue that they send to."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.messaging import Consumer

from tests.support.candidates import Tenure
from tests.support.processes import Children, wait_until

__all__ = ["SCHEDULER", "Beat", "Dispatch", "Inbox", "by_two", "gaps", "leader_of", "write_app"]

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


@dataclass(frozen=True)
class Dispatch:
    """A message that came out of the queue."""

    at: float
    """``time.monotonic()`` when it came."""
    task: str
    task_id: str
    origin: str
    """Which process sent it."""
    token: int
    covers: tuple[int, int]
    """First and last due moment, in microseconds since 1970."""
    headers: Mapping[str, Any]
    argsrepr: str
    kwargsrepr: str

    @property
    def pid(self) -> int:
        """Process id of the beat that sent it."""
        found = re.match(r"gen(\d+)@", self.origin)
        assert found, self.headers
        return int(found[1])


def by_two(sent: Sequence[Dispatch], least: float) -> list[tuple[Dispatch, Dispatch]]:
    """List the neighbours that two beats sent less than ``least`` seconds apart."""
    ordered = sorted(sent, key=lambda dispatch: dispatch.at)
    pairs = itertools.pairwise(ordered)
    return [(a, b) for a, b in pairs if a.origin != b.origin and b.at - a.at < least]


def gaps(sent: Sequence[Dispatch], step: float) -> list[tuple[Dispatch, Dispatch]]:
    """List the neighbours between whose ranges of moments is not just one step of an interval.

    A run that was published twice, since the first leader died before it could say that it was
    published, counts once: both messages have one id, of which workers run the first.
    """
    runs = {dispatch.task_id: dispatch for dispatch in sent}
    ordered = sorted(runs.values(), key=lambda dispatch: dispatch.covers[1])
    pairs = itertools.pairwise(ordered)
    step_us = round(step * 1_000_000)
    return [(a, b) for a, b in pairs if b.covers[0] - a.covers[1] != step_us]


class Inbox:
    """Takes every message out of a queue as soon as it is there, and keeps it.

    Args:
        broker: URL.
        queue: Its name. It is deleted in the end.
    """

    def __init__(self, broker: str, queue: str = "celery") -> None:
        self._connection = Connection(broker)
        self._queue = Queue(queue)
        self._all: list[Dispatch] = []
        self._lock = threading.Lock()
        self._closing = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._consume, name=f"inbox {queue}", daemon=True)
        self._thread.start()
        if not self._ready.wait(10):
            raise RuntimeError(f"no consumer of {queue} within 10 s")

    def _consume(self) -> None:
        with self._connection as connection:
            channel = connection.default_channel
            with Consumer(channel, [self._queue], on_message=self._take, accept=["json"]):
                self._ready.set()
                while not self._closing:
                    try:
                        connection.drain_events(timeout=0.2)
                    except TimeoutError:
                        continue
            self._queue(channel).delete()
            # Celery's own exchange, which it names like its default queue.
            Exchange(self._queue.name, channel=channel).delete()

    def _take(self, message: Any) -> None:
        now, headers = time.monotonic(), message.headers
        first, last = map(int, headers.get("leader_covers", "0,0").split(","))
        dispatch = Dispatch(
            now,
            headers["task"],
            headers["id"],
            headers["origin"],
            headers.get("leader_token", 0),
            (first, last),
            headers,
            headers["argsrepr"],
            headers["kwargsrepr"],
        )
        message.ack()
        with self._lock:
            self._all.append(dispatch)

    def sent(self, entry: str = "", *, since: float = 0.0) -> list[Dispatch]:
        """Return what came, oldest first.

        Args:
            entry: Value of the keyword argument ``entry`` of the task; all if not given.
            since: A moment of ``time.monotonic()``.
        """
        with self._lock:
            every = list(self._all)
        wanted = f"'entry': '{entry}'"
        return [d for d in every if d.at >= since and (not entry or wanted in d.kwargsrepr)]

    def wait_for(
        self,
        count: int,
        timeout: float = 10.0,
        *,
        entry: str = "",
        since: float = 0.0,
        pid: int | None = None,
    ) -> list[Dispatch]:
        """Wait until so many have come, and return them all; with ``pid``, those of one beat."""

        def enough() -> list[Dispatch]:
            found = [d for d in self.sent(entry, since=since) if pid in (None, d.pid)]
            return found if len(found) >= count else []

        def standing() -> str:
            came = Counter((d.task, d.kwargsrepr, d.pid) for d in self.sent())
            return f"{count} of {entry or 'all'}; there came {dict(came)}"

        return wait_until(enough, timeout, standing)

    def close(self) -> None:
        """Stop, and delete the queue."""
        self._closing = True
        self._thread.join(10)

    def __enter__(self) -> Inbox:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Beat:
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
        self.name = name
        program = ["celery", "-A", "app", "beat", "-S", scheduler, "-l", "INFO", *arguments]
        environment = {"PYTHONPATH": str(folder), **(env or {})}
        self.child = children.module(*program, env=environment, cwd=cwd or folder, name=name)
        self.paused = False
        self.ended = False
        """Whether the test itself ended it."""
        self.ended_at = 0.0

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

    @property
    def leads(self) -> bool:
        """Whether it led when it last spoke; of one that cannot speak, no."""
        if self.paused or self.ended:
            return False
        tenures = self.tenures
        return bool(tenures) and not tenures[-1].over

    def lines(self, text: str) -> list[str]:
        """Return its lines that hold a text."""
        return [line for line in self.child.lines if text in line]

    def wait_ready(self) -> None:
        """Wait until it takes part."""
        self.child.wait_for_line("Taking part in the election", 30)

    def wait_standing_by(self) -> None:
        """Wait until it has looked, so that a resignation wakes it."""
        self.child.wait_for_line("Standing by for", 30)

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        self.child.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.child.resume()
        self.paused = False

    def kill(self) -> float:
        """SIGKILL; return the moment before."""
        self.ended, self.ended_at = True, time.monotonic()
        self.child.kill()
        return self.ended_at

    def terminate(self) -> float:
        """SIGTERM, and wait for its end; return the moment before."""
        self.ended, self.ended_at = True, time.monotonic()
        assert self.child.stop() == 0, self.child.output
        return self.ended_at


def leader_of(
    beats: Callable[[], Sequence[Beat]], timeout: float = 10.0, *, other_than: Beat | None = None
) -> Beat:
    """Wait until one of them leads."""

    def leading() -> Beat | None:
        return next((b for b in beats() if b.leads and b is not other_than), None)

    def standing() -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in beats())

    found = wait_until(leading, timeout, lambda: f"a leader; {standing()}")
    assert found is not None
    return found
