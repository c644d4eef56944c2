from __future__ import annotations

import gc
import os
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime.board import Board, BoardReader, variable
from tests.support.processes import Children, wait_until

KEY = "shop"


def lease(token: int) -> Lease:
    """A lease all of whose numbers tell its token."""
    return Lease(token, Instant(token, token + 1, token + 2), Instant(-token, 0.5, 0.25))


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board(KEY, "host:1:ab")
    yield made
    made.close()


def test_what_is_written_is_read(board: Board) -> None:
    reader = BoardReader(os.environ[variable(KEY)])
    assert reader.read() is None
    board.write(lease(7))
    assert reader.read() == ("host:1:ab", lease(7))
    board.write(None)
    assert reader.read() is None


def test_a_closed_board_says_that_nobody_leads_and_its_file_is_gone(board: Board) -> None:
    board.write(lease(7))
    reader = BoardReader(board.path)
    board.close()
    board.close()
    assert reader.read() is None
    assert not Path(board.path).exists()
    assert variable(KEY) not in os.environ


def test_the_file_of_a_worker_that_never_ran_is_removed() -> None:
    forgotten = Board(KEY, "host:1:ab")
    path = Path(forgotten.path)
    assert path.exists()
    del forgotten
    gc.collect()
    assert not path.exists()


KILLED = """
import os, signal
from celery_safe_leader._runtime.board import Board
board = Board("shop", "host:1:ab")
print(board.path, flush=True)
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


def test_the_file_of_a_killed_worker_is_removed_once_no_process_of_it_is_left(
    board: Board, children: Children
) -> None:
    killed = children.python(KILLED)
    path = Path(killed.wait_for_line("celery-safe-leader-").text)
    killed.wait()
    # A child of it still lives, and may look at it.
    Board("other", "host:2:cd").close()
    assert path.exists()
    killed.close()

    def removed() -> bool:
        Board("other", "host:2:cd").close()
        return not path.exists()

    wait_until(removed, 30, "the removal of what the killed worker left")
    assert Path(board.path).exists()


def test_a_file_that_another_worker_took_for_left_behind_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tempfile.mkstemp
    paths: list[str] = []

    def robbed(prefix: str) -> tuple[int, str]:
        handle, path = made(prefix=prefix)
        if not paths:
            os.unlink(path)
        paths.append(path)
        return handle, path

    monkeypatch.setattr(tempfile, "mkstemp", robbed)
    board = Board("other", "host:2:cd")
    assert Path(board.path).exists()
    assert len(paths) == 2
    board.close()


@pytest.mark.parametrize("at", [0, 8, 20, 50, 200], ids=lambda at: f"byte {at}")
def test_a_value_that_is_not_whole_is_not_believed(board: Board, at: int) -> None:
    # A writer that was stopped or killed between two words leaves such a file for ever.
    board.write(lease(7))
    reader = BoardReader(board.path)
    with open(board.path, "r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(struct.pack("B", byte ^ 1))
    assert reader.read() is None


def test_a_reader_sees_whole_values_only_while_they_change(board: Board) -> None:
    ended = threading.Event()

    def write() -> None:
        for token in range(1, 20_000):
            board.write(lease(token))
        ended.set()

    reader = BoardReader(board.path)
    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not ended.is_set():
        found = reader.read()
        if found is not None:
            token = found[1].fencing_token
            assert found == ("host:1:ab", lease(token))
            seen.add(token)
    writer.join()
    assert len(seen) > 1


READ = """
import os, sys
from celery_safe_leader._runtime.board import BoardReader, variable
if sys.argv[1] == "orphan" and os.fork():
    os._exit(0)
if sys.argv[1] == "orphan":
    while os.getppid() != 1 and os.getppid() == int(sys.argv[2]):
        pass
print(BoardReader(os.environ[variable("shop")]).read())
"""


def read_in_child(kind: str) -> str:
    argv = [sys.executable, "-c", READ, kind, str(os.getpid())]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


def test_a_child_reads_what_its_parent_wrote(board: Board) -> None:
    board.write(lease(7))
    assert "fencing_token=7" in read_in_child("child")


def test_a_process_whose_parent_is_another_does_not_believe(board: Board) -> None:
    board.write(lease(7))
    assert read_in_child("orphan") == "None\n"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ValueError, match="length"):
        BoardReader(str(tmp_path / "short"))
