"""The worker's end: its beat is started, watched, started again, and ended."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker import state

from celery_safe_leader._runtime.embedded.pulse import Pulse, PulseReader
from celery_safe_leader._worker.embedded_beat import keeper as embedded_keeper
from celery_safe_leader._worker.embedded_beat.keeper import Keeper
from tests.support.processes.waiting import wait_until


class Process:
    """What Celery makes of an embedded beat."""

    def __init__(self, pid: int, calls: list[str]) -> None:
        self._number = pid
        self._calls = calls
        self.pid: int | None = None
        self.exitcode: int | None = None

    def start(self) -> None:
        self.pid = self._number
        self._calls.append(f"start {self.pid}")

    def terminate(self) -> None:
        self._calls.append(f"terminate {self.pid}")
        self.exitcode = 0


class KeeperHarness:
    """A keeper, and all that happens around it."""

    def __init__(self, board: Path, *, follows: bool = True) -> None:
        board.touch()
        self.calls: list[str] = []
        self.processes = [Process(1, self.calls)]
        self.member: Any = SimpleNamespace(
            board_path=str(board),
            resign=lambda reason: self.calls.append(f"resign {reason}"),
            stand_down=lambda why: self.calls.append(f"stand down: {why}"),
            campaign_in_time=lambda: self.calls.append("able"),
            elect=lambda reason: self.calls.append(f"elect {reason}"),
        )
        followed: Any = self.member if follows else None
        self.keeper = Keeper(self.processes[0], self._make, followed, ttl=1.0)

    def _make(self) -> Process:
        self.processes.append(Process(len(self.processes) + 1, self.calls))
        return self.processes[-1]

    def wait_started(self, number: int) -> None:
        wait_until(lambda: f"start {number}" in self.calls, 30, lambda: str(self.calls))

    def wait_for(self, *calls: str) -> None:
        """Wait until its first calls are these."""
        wait_until(lambda: self.calls[: len(calls)] == list(calls), 30, lambda: str(self.calls))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., KeeperHarness]]:
    made: list[KeeperHarness] = []

    def make(**options: Any) -> KeeperHarness:
        made.append(KeeperHarness(tmp_path / f"board-{len(made)}", **options))
        return made[-1]

    def kill(pid: int, number: int) -> None:
        for stage in made:
            stage.calls.append(f"kill {pid}")
            stage.processes[pid - 1].exitcode = -number

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(embedded_keeper, "_POLL", 0.005)
    monkeypatch.setattr(embedded_keeper, "_SHORTEST_PAUSE", 0.01)
    monkeypatch.setattr(embedded_keeper, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(embedded_keeper, "_SHORTEST_SILENCE", 0.0)
    yield make
    for stage in made:
        stage.keeper.end()


def test_a_beat_that_ended_is_started_again_after_the_worker_resigned(
    make: Callable[..., KeeperHarness], caplog: pytest.LogCaptureFixture
) -> None:
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    stage.keeper.watch()
    stage.processes[0].exitcode = -signal.SIGKILL
    stage.wait_for("start 1", "resign beat", "start 2", "elect beat")
    assert [record.message for record in caplog.records] == [
        "The embedded beat (pid 1) was killed by SIGKILL. This worker hands leadership over and "
        "starts it again in 0.01 s"
    ]


def test_the_pause_doubles_up_to_a_limit(
    make: Callable[..., KeeperHarness], caplog: pytest.LogCaptureFixture
) -> None:
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    for number in range(1, 6):
        stage.wait_started(number)
        stage.processes[-1].exitcode = 1
    stage.wait_started(6)
    said = [record.message for record in caplog.records]
    assert all("has ended with exit code 1" in line for line in said)
    pauses = [line.rsplit(" in ", 1)[1] for line in said]
    assert pauses == ["0.01 s", "0.02 s", "0.04 s", "0.05 s", "0.05 s"]


def test_one_that_gives_no_sign_of_life_is_killed(
    make: Callable[..., KeeperHarness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedded_keeper, "_LONGEST_START", 0.1)
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    stage.wait_for("start 1", "resign beat", "kill 1", "start 2", "elect beat")
    assert "gave no sign of life for" in caplog.text


def test_one_that_gives_signs_of_life_is_left_alone(
    make: Callable[..., KeeperHarness], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_keeper, "_LONGEST_START", 0.5)
    stage = make()
    monkeypatch.setattr(stage.keeper, "_ttl", 0.5)
    pulse = Pulse(stage.member.board_path)
    stage.keeper.start()
    stage.keeper.watch()
    beating = threading.Event()

    def live() -> None:
        while not beating.wait(0.005):
            pulse.beat()

    thread = threading.Thread(target=live)
    thread.start()
    beating.wait(1.5)  # several times what it is given
    assert stage.calls == ["start 1"]
    beating.set()
    thread.join()


def test_a_worker_whose_beat_wants_to_rest_resigns_and_comes_back(
    make: Callable[..., KeeperHarness],
) -> None:
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    Pulse(stage.member.board_path).wish_to_rest(0.1)
    stage.wait_for("start 1", "resign beat")
    stage.wait_for("start 1", "resign beat", "elect beat")


def test_the_election_ends_a_watched_beat_and_celery_does_not(
    make: Callable[..., KeeperHarness],
) -> None:
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    stage.keeper.stop()
    stage.keeper.terminate()
    assert stage.calls == ["start 1"]
    stage.keeper.end()
    stage.keeper.end()
    assert stage.calls == ["start 1", "terminate 1"]


def test_a_beat_that_does_not_end_is_killed(
    make: Callable[..., KeeperHarness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = make()
    monkeypatch.setattr(stage.processes[0], "terminate", lambda: None)
    monkeypatch.setattr(stage.keeper, "_ttl", 0.05)
    stage.keeper.start()
    stage.keeper.end()
    assert stage.calls == ["start 1", "kill 1"]
    assert "did not end within 0.05 s" in caplog.text


def test_a_worker_that_shuts_down_keeps_leading_with_another_beat(
    make: Callable[..., KeeperHarness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Its beat got the same signal, and its leader-only tasks still run.
    monkeypatch.setattr(state, "should_stop", 0)
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    stage.processes[0].exitcode = 0
    stage.wait_started(2)
    assert "resign beat" not in stage.calls
    assert caplog.records == []


def test_one_that_does_not_follow_is_started_again_and_nobody_resigns(
    make: Callable[..., KeeperHarness], caplog: pytest.LogCaptureFixture
) -> None:
    stage = make(follows=False)
    stage.keeper.start()
    stage.keeper.watch()
    stage.processes[0].exitcode = 3
    stage.wait_for("start 1", "start 2")
    assert "exit code 3. This worker starts it again in" in caplog.text
    stage.keeper.stop()
    assert stage.calls[-1] == "terminate 2"


def test_a_beat_that_cannot_be_started_is_tried_again(
    make: Callable[..., KeeperHarness],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = make()

    def refuse() -> None:
        raise OSError("no more processes")

    stage.keeper.start()
    stage.keeper.watch()
    real = stage.keeper._make

    def failing() -> Any:
        process = real()
        if len(stage.processes) == 2:
            process.start = refuse
        return process

    monkeypatch.setattr(stage.keeper, "_make", failing)
    stage.processes[0].exitcode = 1
    stage.wait_started(3)
    assert "Watching the embedded beat failed; continuing" in caplog.text
    assert "could not start" in caplog.text


def test_a_new_reader_has_seen_no_wish(tmp_path: Path) -> None:
    board = tmp_path / "board"
    board.touch()
    reader = PulseReader(str(board))
    assert reader.beats == 0
    assert reader.wish() is None


@pytest.fixture
def kept(
    make: Callable[..., KeeperHarness], monkeypatch: pytest.MonkeyPatch
) -> tuple[KeeperHarness, Pulse]:
    """A beat that is watched and not expected to give signs of life; and its own end."""
    monkeypatch.setattr(embedded_keeper, "_LONGEST_START", 60.0)
    stage = make()
    stage.keeper.start()
    stage.keeper.watch()
    return stage, Pulse(stage.member.board_path)


def test_a_beat_that_cannot_work_is_replaced_and_its_worker_leads_on(
    kept: tuple[KeeperHarness, Pulse], caplog: pytest.LogCaptureFixture
) -> None:
    stage, pulse = kept
    pulse.stand_down("call", 120.0)
    stage.wait_for("start 1", "terminate 1", "start 2")
    assert Pulse(stage.member.board_path).patience == 120.0
    assert [record.message for record in caplog.records] == [
        "The embedded beat (pid 1) could not publish anything (cause: call). This worker starts "
        "another one, and hands leadership over if that is in vain"
    ]


def test_the_second_time_its_worker_hands_over(
    kept: tuple[KeeperHarness, Pulse], caplog: pytest.LogCaptureFixture
) -> None:
    stage, pulse = kept
    pulse.stand_down("call", 120.0)
    stage.wait_started(2)
    caplog.clear()
    pulse.stand_down("broker", 240.0)
    stage.wait_for(
        *("start 1", "terminate 1", "start 2"),
        *("stand down: broker", "terminate 2", "start 3"),
    )
    assert [record.message for record in caplog.records] == [
        "The embedded beat (pid 2) could not publish anything (cause: broker), as the one before "
        "it: this worker hands leadership over, and others go first"
    ]


@pytest.mark.parametrize("published", [True, False])
def test_the_second_time_counts_if_it_is_soon_or_nothing_was_published_since(
    kept: tuple[KeeperHarness, Pulse], monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    monkeypatch.setattr(embedded_keeper, "_NOT_AGAIN", 0.0)
    stage, pulse = kept
    pulse.stand_down("call", 120.0)
    stage.wait_started(2)
    if published:
        pulse.succeed()
        wait_until(lambda: "able" in stage.calls, 30)
        assert pulse.patience == 0
    pulse.stand_down("call", 120.0)
    stage.wait_started(3)
    assert ("stand down: call" in stage.calls) is not published


def test_soon_counts_although_something_was_published(kept: tuple[KeeperHarness, Pulse]) -> None:
    stage, pulse = kept
    pulse.stand_down("call", 120.0)
    stage.wait_started(2)
    pulse.succeed()
    wait_until(lambda: "able" in stage.calls, 30)
    pulse.stand_down("call", 120.0)
    stage.wait_started(3)
    assert "stand down: call" in stage.calls


def test_a_beat_whose_clock_is_off_is_kept_and_its_worker_hands_over(
    kept: tuple[KeeperHarness, Pulse],
) -> None:
    stage, pulse = kept
    pulse.stand_down("clock", 60.0)
    stage.wait_for("start 1", "stand down: clock")
    pulse.stand_down("clock", 60.0)
    stage.wait_for("start 1", *["stand down: clock"] * 2)
