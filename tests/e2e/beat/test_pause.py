"""``leader pause`` and ``resume`` with real beats: whoever leads obeys, over everything."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import LedgerKeys
from tests.integration.operations.commands import Found, invoke
from tests.support.celery.beats import SCHEDULER, Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

SCHEDULE = '{"tick": {"task": "shop.work", "schedule": 0.2}}'


MIXED = """
from celery.beat import Scheduler
from celery_safe_leader.schedulers import LeaderSchedulerMixin

class Mixed(LeaderSchedulerMixin, Scheduler):
    pass
"""


class PauseStage:
    """Two beats whose messages nobody takes from the queue."""

    def __init__(
        self,
        children: Children,
        folder: Path,
        server: Server,
        *,
        database: int = 0,
        schedule: str = SCHEDULE,
        scheduler: str = SCHEDULER,
    ) -> None:
        self.server = server
        self.url = server.url.removesuffix("/0") + f"/{database}"
        self._children, self._folder, self._started = children, folder, 0
        self._scheduler = scheduler
        write_app(
            folder, server.url, schedule, more=MIXED,
            leader_url=self.url, leader_ttl=2.0, leader_wait=0.2,
        )  # fmt: skip
        self.beats: list[Beat] = []

    def start(self) -> Beat:
        self._started += 1
        name = f"beat {self._started}"
        self.beats.append(Beat(self._children, self._folder, name=name, scheduler=self._scheduler))
        return self.beats[-1]

    def queued(self) -> int:
        client: Any = self.server.client()
        return int(client.llen("celery"))

    def wait_for_more(self) -> None:
        before = self.queued()
        wait_until(lambda: self.queued() > before, 60, self.said)

    def run(self, *words: str) -> Found:
        return invoke(self.url, "shop", *words)

    def said(self) -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in self.beats)

    def wait_until_told(self, beat: Beat) -> None:
        """Wait until a leading beat says that it publishes nothing."""
        paused = "until `leader resume`, or the end of the pause"
        wait_until(lambda: paused in beat.child.output, 60, self.said)

    @property
    def messages(self) -> list[str]:
        """Ids of all messages."""
        client: Any = self.server.client()
        return [json.loads(each)["headers"]["id"] for each in client.lrange("celery", 0, -1)]


@pytest.fixture
def stage(children: Children, tmp_path: Path, valkey_server: Server) -> PauseStage:
    return PauseStage(children, tmp_path, valkey_server)


@pytest.mark.parametrize("database", [0, 1], ids=["transactional", "write-ahead"])
def test_nobody_publishes_until_the_resumption_over_a_takeover(
    children: Children, tmp_path: Path, valkey_server: Server, database: int
) -> None:
    stage = PauseStage(children, tmp_path, valkey_server, database=database)
    stage.start()
    stage.start()
    first = leader_of(lambda: stage.beats, 60)
    stage.wait_for_more()
    way = "transactional" if database == 0 else "write-ahead"
    wait_until(lambda: f"publication: {way}" in stage.run("status").output, 30, stage.said)

    paused = stage.run("pause", "--reason", "up\x1b[2Jgrade", "--by", "ann", "--wait", "60")
    assert paused.code == 0, paused.output
    assert "shop is PAUSED until it is resumed (pause #1). Nothing is published." in paused.output
    queued = stage.queued()
    stage.wait_until_told(first)
    first.kill()
    second = leader_of(lambda: stage.beats, 60, other_than=first)
    stage.wait_until_told(second)
    assert stage.queued() == queued
    shown = stage.run("status")
    assert shown.code == 0
    assert shown.lines[1].startswith("PAUSED     nothing is published until it is resumed")
    assert re.search(r"\(pause #1, by ann at .* UTC: up\\x1b\[2Jgrade\)", shown.output)
    assert stage.run("status", "--json").json["ledger"]["pause"]["by"] == "ann"

    resumed = stage.run("resume", "--by", "bob")
    assert (resumed.code, "is resumed" in resumed.output) == (0, True)
    wait_until(lambda: stage.queued() > queued + 2, 60, stage.said)
    messages = stage.messages  # more of them come all the time
    assert len(set(messages)) == len(messages)
    again = stage.run("resume")
    assert (again.code, "was not paused" in again.output) == (0, True)
    assert stage.run("status").output.count("PAUSED") == 0
    for beat in stage.beats:
        assert "Traceback" not in beat.child.output


def test_a_pause_that_runs_out_while_nobody_leads_is_over_for_the_next_leader(
    stage: PauseStage,
) -> None:
    beat = stage.start()
    stage.wait_for_more()
    found = stage.run("pause", "--for", "3s", "--json").json
    assert found["paused"]
    assert found["at"] < found["until"]
    queued = stage.queued()
    beat.terminate()
    stage.beats.clear()
    assert stage.queued() == queued
    wait_until(lambda: "PAUSED" not in stage.run("status").output, 60, "its end")
    stage.start()
    wait_until(lambda: stage.queued() > queued, 60, stage.said)
    assert stage.run("resume", "--json").json["was_paused"] is False


def test_a_running_leader_goes_on_by_itself_when_it_runs_out(stage: PauseStage) -> None:
    beat = stage.start()
    stage.wait_for_more()
    stage.run("pause", "--for", "2s")
    queued = stage.queued()
    stage.wait_until_told(beat)
    wait_until(lambda: stage.queued() > queued, 60, stage.said)
    assert stage.run("status").output.count("PAUSED") == 0


def test_a_leader_with_nothing_to_do_tells_of_a_pause_and_ends_it(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    stage = PauseStage(
        children,
        tmp_path,
        valkey_server,
        schedule='{"rare": {"task": "shop.work", "schedule": 36000}}',
    )
    beat = stage.start()
    wait_until(lambda: stage.run("pause").code == 0, 60, stage.said)
    stage.wait_until_told(beat)
    stage.run("pause", "--for", "1s")
    client: Any = valkey_server.client(decode_responses=False)

    def sentinel_format() -> bytes:
        return bytes(client.hget(LedgerKeys("shop").runs, SENTINEL)[:2])

    assert sentinel_format() == b"2 "
    wait_until(lambda: sentinel_format() == b"1 ", 60, stage.said)


def lose_everything(stage: PauseStage) -> None:
    stage.server.client().flushall()


def restart_empty(stage: PauseStage) -> None:
    stage.server.restart_empty()


@pytest.mark.parametrize("lose", [lose_everything, restart_empty])
def test_a_leader_that_lives_writes_its_pause_back(
    stage: PauseStage, lose: Callable[[PauseStage], None]
) -> None:
    beat = stage.start()
    stage.wait_for_more()
    stage.run("pause")
    stage.wait_until_told(beat)
    lose(stage)
    wait_until(lambda: "PAUSED" in stage.run("status").output, 60, stage.said)
    wait_until(lambda: beat.leads, 60, stage.said)
    assert stage.queued() == 0
    assert stage.run("resume").code == 0
    wait_until(lambda: stage.queued() > 0, 60, stage.said)


def test_a_pause_outlives_a_restart_with_persistence(
    children: Children, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server("valkey", config={"appendonly": "yes", "appendfsync": "always"})
    stage = PauseStage(children, tmp_path, server)
    stage.start()
    stage.wait_for_more()
    stage.run("pause")
    queued = stage.queued()
    stage.beats.pop().kill()
    server.kill()
    server.start()
    stage.wait_until_told(stage.start())
    assert "PAUSED" in stage.run("status").output
    assert stage.queued() == queued


def test_other_schedulers_obey_under_the_mixin(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    """Also in a fleet that has no ledger of ours."""
    stage = PauseStage(children, tmp_path, valkey_server, scheduler="app:Mixed")
    first = stage.start()
    stage.wait_for_more()
    assert stage.run("pause").code == 0
    stage.wait_until_told(first)
    queued = stage.queued()
    first.kill()
    second = stage.start()
    stage.wait_until_told(second)
    assert stage.queued() == queued
    assert stage.run("resume").code == 0
    wait_until(lambda: stage.queued() > queued, 60, stage.said)
    stage.run("pause", "--for", "1s")
    wait_until(lambda: "PAUSED" not in stage.run("status").output, 60, stage.said)
    stage.wait_for_more()
    assert second.terminate() is not None
    assert "Traceback" not in stage.said()


def test_what_cannot_be_paused_is_said(stage: PauseStage) -> None:
    nothing = stage.run("pause")
    assert nothing.code == 1
    assert (
        "there is no ledger yet, because no beat with this key has been elected leader"
        in nothing.output
    )
    assert stage.run("resume").code == 1
    stage.start()
    stage.wait_for_more()
    stage.server.pause()
    away = stage.run("pause")
    stage.server.resume()
    assert away.code == 2
    assert "Nothing was done" in away.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--for", "0"], "'0' is not a length of time"),
        (["--for", "-5m"], "'-5m' is not a length of time"),
        (["--for", "soon"], "write seconds, or 90s, 15m, 2h, 1d or 1h30m"),
        (["--for", "9999d"], "at most ten years"),
        (["--reason", "x" * 201], "it has 201 characters; at most 200 fit"),
    ],
)
def test_a_wrong_option_is_named(words: list[str], said: str) -> None:
    found = invoke("redis://127.0.0.1:1/0", "shop", "pause", *words)
    assert found.code == 2
    assert said in found.output
