"""The embedded beat's end: it leads while its worker's board says so, and tells that it runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from celery_safe_leader import conf
from celery_safe_leader._beat.embedded.following import Following, follow_worker
from celery_safe_leader._core.events import Lease
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._runtime.embedded.board import Board, variable
from celery_safe_leader._runtime.embedded.pulse import Pulse, PulseReader
from tests.support.processes import Children, wait_until

KEY = "shop"


OTHER_WORKER = """
import signal
from celery_safe_leader._runtime.embedded.board import Board
board = Board("shop", "host:1:ab")
print(board.path, flush=True)
signal.pause()
"""


def settings() -> conf.LeaderSettings:
    app = Celery(KEY, broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.leader_ttl = 1.0
    return conf.read(app)


def lease(token: int, seconds: float = 60.0) -> Lease:
    now = SystemClock().now()
    return Lease(token, now.plus(seconds), now)


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board(KEY, "host:1:ab")
    yield made
    made.close()


@pytest.fixture
def pulse(board: Board) -> PulseReader:
    return PulseReader(board.path)


@pytest.fixture
def following(board: Board, pulse: PulseReader) -> Iterator[Following]:
    made = Following(settings(), board.path)
    yield made
    made.leave()


def test_it_leads_as_long_as_the_board_says_so(board: Board, following: Following) -> None:
    assert not following.is_leader
    assert following.fencing_token is None
    board.write(lease(7))
    assert following.is_leader
    assert (following.fencing_token, following.candidate_id) == (7, "host:1:ab")
    board.write(lease(8))
    assert following.fencing_token == 8
    board.write(None)
    assert not following.is_leader


def test_it_does_not_lead_when_the_lease_is_over(board: Board, following: Following) -> None:
    board.write(lease(7, 0.05))
    assert following.wait(lambda: not following.is_leader, 5)
    board.write(lease(7, -1))
    assert following.fencing_token is None


def test_it_waits_until_its_worker_leads(board: Board, following: Following) -> None:
    assert not following.wait(lambda: following.is_leader, 0.05)
    elected = threading.Timer(0.1, board.write, [lease(7)])
    elected.start()
    assert following.wait(lambda: following.is_leader, 10)
    elected.join()


def test_it_says_once_that_its_worker_leads_and_leads_no_longer(
    board: Board, following: Following, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    for token in (None, 7, None):
        board.write(lease(token) if token else None)
        following.join()
        following.join()
    assert [record.message for record in caplog.records] == [
        "The worker leads shop:worker: its embedded beat dispatches now (token 7)",
        "The worker no longer leads shop:worker: its embedded beat stands by",
    ]


def test_one_that_rests_does_not_lead_and_asks_its_worker_to_resign(
    board: Board, pulse: PulseReader, following: Following
) -> None:
    board.write(lease(7))
    assert pulse.wish() is None
    assert following.rest() == 5.0
    assert not following.is_leader
    assert pulse.wish() == 5.0
    assert pulse.wish() is None
    following.rest()
    assert pulse.wish() == 5.0


def test_one_that_stands_down_leads_no_more_in_this_tenure_and_says_why(
    board: Board, pulse: PulseReader, following: Following
) -> None:
    board.write(lease(7))
    assert pulse.stood_down() is None
    for _ in range(2):
        following.stand_down("broker", 120.0)
        assert not following.is_leader
        assert pulse.stood_down() == "broker"
        assert pulse.stood_down() is None
    board.write(lease(8))
    assert following.is_leader
    assert pulse.wish() is None
    following.stand_down("clock", 60.0)
    assert pulse.stood_down() == "clock"


def test_the_next_beat_of_a_worker_inherits_the_patience_of_one_that_stood_down(
    board: Board, pulse: PulseReader, following: Following
) -> None:
    assert following.patience == 0
    following.stand_down("broker", 120.0)
    successor = Following(settings(), board.path)
    assert successor.patience == 120.0
    assert not pulse.succeeded()
    successor.is_able()
    assert pulse.succeeded()
    assert not pulse.succeeded()
    assert Following(settings(), board.path).patience == 0


def test_one_that_left_does_not_lead(board: Board, following: Following) -> None:
    board.write(lease(7))
    following.leave()
    following.leave()
    assert not following.is_leader


def test_it_shows_that_it_runs(pulse: PulseReader, following: Following) -> None:
    before = pulse.beats
    wait_until(lambda: pulse.beats > before + 1, 30, "two signs of life")


def test_the_pulse_does_not_touch_the_board(board: Board, pulse: PulseReader) -> None:
    told = Pulse(board.path)
    reader = Following(settings(), board.path)
    board.write(lease(7))
    for _ in range(300):
        told.beat()
        told.wish_to_rest(1e9)
    assert reader.fencing_token == 7
    reader.leave()


def test_without_a_board_there_is_no_worker_to_follow() -> None:
    assert variable(KEY) not in os.environ
    assert follow_worker(settings()) is None


def test_a_board_that_cannot_be_read_is_an_error(
    monkeypatch: pytest.MonkeyPatch, board: Board
) -> None:
    # Nobody keeps a beat there.
    with pytest.raises(ValueError, match="length"):
        follow_worker(settings())
    monkeypatch.setenv(variable(KEY), "/nowhere/at/all")
    with pytest.raises(FileNotFoundError):
        follow_worker(settings())


def test_the_board_of_another_worker_is_not_followed(
    monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    # As for a worker that a task of another one started, which inherits its environment. The other
    # worker may be gone, and another file may have its number.
    shown = children.python(OTHER_WORKER)
    path = shown.wait_for_line("/proc/").text
    monkeypatch.setenv(variable(KEY), path)
    assert follow_worker(settings()) is None
    shown.close()
    assert follow_worker(settings()) is None


def test_waiting_costs_little(following: Following) -> None:
    # A standby waits all its life.
    looks = 0

    def leads() -> bool:
        nonlocal looks
        looks += 1
        return following.is_leader

    following.wait(leads, 1.0)
    assert 0 < looks <= 60  # each 20 ms


def test_what_a_beat_did_reaches_its_worker(tmp_path: Path) -> None:
    file = tmp_path / "board"
    file.write_bytes(bytes(512))
    reader = PulseReader(str(file))
    assert reader.said() == b""
    pulse = Pulse(str(file))
    for text in (b'{"published":3}', b"x" * 3072, b"{}"):
        pulse.say(text)
        assert reader.said() == text
    pulse.say(b"x" * 3073)
    assert reader.said() == b"", "too long"
    pulse.say(b"abc")
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"abc", b"abX"))
    assert PulseReader(str(file)).said() == b"", "half written"
