"""Beats of this release and of the one before lead in turns, over one ledger.

At each change something is left behind that the other release has to understand: runs that are
claimed and perhaps published, a pause, a standby's copy from before the other one led. What was
executed is counted by the tasks themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._store.keys import LedgerKeys
from tests.integration.operations.commands import invoke
from tests.support.celery.beats import Beat
from tests.support.celery.chaos import LOADED, Fleet, problems
from tests.support.older_release import unpacked
from tests.support.processes import wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server, installed_kinds

STEPS = {"often": 0.5, "rare": 1.25}
_RELEASE = """
import celery_safe_leader
print("RELEASE", celery_safe_leader.__file__, flush=True)
"""


class Turns:
    """A worker, and beats of both releases, of which one leads after the other."""

    def __init__(self, cleanup: ExitStack, folder: Path, *, one_database: bool) -> None:
        self.older = unpacked(folder / "older")
        self.server = cleanup.enter_context(Server(installed_kinds()[0]))
        self.broker = self.server
        if not one_database:
            self.broker = cleanup.enter_context(Server(installed_kinds()[0]))
        app = folder / "app"
        app.mkdir()
        self.fleet = cleanup.enter_context(
            Fleet(
                *(app, self.broker.url, self.server.url, STEPS),
                more=_RELEASE,
                leader_ttl=1.0,
                leader_wait=0.2,
            )
        )
        self.fleet.start_worker("-P", "solo")
        self._client: Any = self.server.client(decode_responses=False)
        self._pending = LedgerKeys("shop").pending

    def start(self, *, older: bool = False) -> Beat:
        """Start a beat, and wait until it has looked, or leads."""
        release = self.older if older else None
        beat = self.fleet.start_beat(release=release)
        wait_until(lambda: beat.leads or beat.lines("Standing by for"), 60, self.fleet.standing)
        assert beat.lines(f"RELEASE {(release or ROOT) / 'celery_safe_leader'}/")
        return beat

    def next_leader(self, beat: Beat) -> None:
        """Wait until a beat leads and what it sent was executed."""
        assert self.fleet.leader(60, other_than=None) is beat
        beat.child.wait_for_line(LOADED, 60)
        self.wait_executed(beat)

    def wait_executed(self, beat: Beat) -> None:
        """Wait for runs of both entries in a beat's present tenure."""
        token = beat.tenures[-1].token

        def executed() -> bool:
            runs = [run.entry for run in self.fleet.executions() if run.token == token]
            return runs.count("often") >= 2 and "rare" in runs

        wait_until(executed, 60, self.fleet.standing)

    def kill_with_pending(self, beat: Beat) -> None:
        """Kill a leader between the claim of a run and its commit."""
        if self.broker is not self.server:
            self.broker.pause()  # nobody knows any more what became of a message
        wait_until(lambda: self._client.hlen(self._pending) > 1, 30, "a claim", interval=0.001)
        beat.kill()
        assert self._client.hlen(self._pending) > 1, "it was committed: nothing is shown"
        if self.broker is not self.server:
            self.broker.resume()

    def finish(self) -> None:
        """Let everything be executed, and judge."""
        until = time.time_ns() // 1000
        self.fleet.wait_served(until, 60)
        self.fleet.stop_beats()
        self.fleet.wait_idle()
        assert problems(self.fleet.executions(), self.fleet.grids, until) == []
        assert self.fleet.complaints() == []


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[bool], Turns]]:
    with ExitStack() as cleanup:
        yield lambda one_database: Turns(cleanup, tmp_path, one_database=one_database)


def settled(beat: Beat) -> int:
    """Return how many runs a leader says that it has to settle."""
    return int(beat.lines(LOADED)[-1].rpartition(", ")[2].split()[0])


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("one_database", [True, False], ids=["transactional", "write-ahead"])
def test_each_settles_what_the_other_left_obeys_its_pause_and_believes_no_old_copy(
    make: Callable[[bool], Turns], one_database: bool
) -> None:
    turns = make(one_database)
    first = turns.start()
    turns.next_leader(first)

    # A standby of this release copies the ledger; then the older release leads.
    standby = turns.start()
    standby.child.wait_for_line("Copied the ledger", 90)
    older = turns.start(older=True)
    standby.pause()
    first.terminate()
    turns.next_leader(older)
    standby.resume()
    turns.kill_with_pending(older)
    turns.next_leader(standby)
    assert "all read (" in standby.lines(LOADED)[-1]
    assert settled(standby) >= 1

    # It is paused, and dies: the older release adopts nothing until the resumption.
    older = turns.start(older=True)
    assert invoke(turns.server.url, "shop", "pause", "--wait", "60").code == 0
    turns.fleet.wait_idle()
    executed = len(turns.fleet.executions())
    standby.kill()
    older.child.wait_for_line("dispatches nothing until that ends", 60)
    assert older.leads
    turns.fleet.wait_idle()
    assert len(turns.fleet.executions()) == executed
    assert invoke(turns.server.url, "shop", "resume").code == 0
    turns.wait_executed(older)

    # Back, and with claims of this release where it makes some.
    last = turns.start()
    older.terminate()
    turns.next_leader(last)
    older = turns.start(older=True)
    if one_database:
        last.kill()
    else:
        turns.kill_with_pending(last)
    turns.next_leader(older)
    if not one_database:
        assert settled(older) >= 1
    # And one that copies while this release leads again is believed again.
    last = turns.start()
    older.terminate()
    turns.next_leader(last)
    standby = turns.start()
    standby.child.wait_for_line("Copied the ledger", 90)
    last.terminate()
    turns.next_leader(standby)
    assert "warm (" in standby.lines(LOADED)[-1]
    turns.finish()
