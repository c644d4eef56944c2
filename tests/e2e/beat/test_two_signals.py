"""Two signals in a row end a beat as one does: Ctrl-C under a process manager, for example.

The lease outlasts the test by far, so that only a leader that resigned is ever succeeded.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import SCHEDULER, Beat, leader_of, write_app
from tests.support.celery.inbox import Inbox, gaps
from tests.support.processes import Children
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server, installed_kinds

STEP = 0.1
"""Seconds. With more runs the inbox of a busy machine falls behind."""
SCHEDULE = f"""{{
    f"tick-{{number}}": {{
        "task": "shop.work", "schedule": {STEP}, "kwargs": {{"entry": f"tick-{{number}}"}},
    }} for number in range(5)
}}"""
RARE = '{"tick": {"task": "shop.work", "schedule": 1.0, "kwargs": {"entry": "tick"}}}'
_SHARED = """
from celery.beat import PersistentScheduler
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Shared(LeaderSchedulerMixin, PersistentScheduler):
    pass
"""
PAIRS = [
    (signal.SIGINT, signal.SIGTERM, 0.0005),
    (signal.SIGINT, signal.SIGTERM, 0.001),
    (signal.SIGTERM, signal.SIGTERM, 0.004),
    (signal.SIGTERM, signal.SIGINT, 0.002),
]


class Pair:
    """A leader and a standby."""

    def __init__(self, folder: Path, url: str, children: Children, scheduler: str) -> None:
        self._folder, self._children, self._scheduler = folder, children, scheduler
        leave_resigned(url, "shop", "beat")
        self.beats = [self._start()]
        self.leader = leader_of(lambda: self.beats)
        self.beats.append(self._start())

    def _start(self) -> Beat:
        name = f"beat {len(getattr(self, 'beats', ()))}"
        return Beat(
            self._children, self._folder, "--pidfile=", name=name, scheduler=self._scheduler
        )

    def signalled(self, first: signal.Signals, second: signal.Signals, pause: float) -> Beat:
        """Send the leader two signals; return it once it has ended and another one leads."""
        old = self.leader
        self.beats[-1].wait_standing_by()
        old.note_end()
        old.child.signal(first)
        time.sleep(pause)
        old.child.signal(second)
        self.leader = leader_of(lambda: self.beats, other_than=old)
        # While the interpreter ends, Python has no handlers any more: the second signal may end it.
        assert old.child.wait(PATIENCE) in (0, -second), old.child.output
        self.beats.append(self._start())
        return old


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Pair, Server, Inbox]]]:
    with ExitStack() as cleanup:

        def start(schedule: str, scheduler: str = SCHEDULER) -> tuple[Pair, Server, Inbox]:
            server = cleanup.enter_context(Server(installed_kinds()[0]))
            # Another database is another broker, to which each run is claimed first.
            broker = server.url.removesuffix("/0") + "/1"
            inbox = cleanup.enter_context(Inbox(broker))
            children = Children()
            cleanup.callback(children.close)
            write_app(
                tmp_path,
                broker,
                schedule,
                more=_SHARED,
                leader_url=server.url,
                leader_ttl=120.0,
                leader_wait=0.2,
            )
            return Pair(tmp_path, server.url, children, scheduler), server, inbox

        yield start


@pytest.mark.timeout(180)
def test_a_second_signal_neither_prevents_the_handover_nor_tears_the_batch(
    start: Callable[..., tuple[Pair, Server, Inbox]],
) -> None:
    pair, server, inbox = start(SCHEDULE)
    inbox.wait_for(20)
    for first, second, pause in PAIRS:
        old = pair.signalled(first, second, pause)
        assert old.lines("Demoted: resigned as leader"), old.child.output
        loaded = pair.leader.child.wait_for_line("Loaded the ledger of").text
        assert loaded.endswith(", 0 runs to settle"), loaded
        began = time.monotonic()

        def goes_on(since: float = began) -> bool:
            found = [each for each in inbox.sent(since=since) if each.pid == pair.leader.pid]
            return len(found) >= 20

        wait_until(goes_on, what=lambda: f"20 runs of the next leader: {pair.leader.child.output}")
    reasons = [fields["reason"] for _, fields in history(server) if fields["event"] == "resigned"]
    assert reasons[1:] == ["shutdown"] * len(PAIRS)
    sent = inbox.sent()
    for number in range(5):
        entry = [one for one in sent if f"tick-{number}'" in one.kwargsrepr]
        assert gaps(entry, STEP) == []
        assert len({one.task_id for one in entry}) == len(entry), "sent twice"


@pytest.mark.timeout(180)
def test_a_second_signal_does_not_prevent_the_handover_of_another_scheduler(
    start: Callable[..., tuple[Pair, Server, Inbox]],
) -> None:
    pair, server, inbox = start(RARE, "app.Shared")
    inbox.wait_for(1)
    for first, second, pause in PAIRS[1:3]:
        pair.signalled(first, second, pause)
        inbox.wait_for(1, since=time.monotonic(), pid=pair.leader.pid)
    assert len([1 for _, fields in history(server) if fields["event"] == "resigned"]) == 3


def history(server: Server) -> list[tuple[str, dict[str, str]]]:
    entries: list[tuple[str, dict[str, str]]] = server.client().xrange("{leader:shop}:beat:history")  # type: ignore[assignment]
    return entries
