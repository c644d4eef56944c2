from __future__ import annotations

import gc
import itertools
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
from celery_safe_leader._runtime.embedded.board import Board, BoardReader, maker, variable
from tests.support.processes import Children, wait_until

KEY = "shop"


def without_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a system that has none."""
    monkeypatch.delattr(os, "memfd_create", raising=False)


def lease(token: int) -> Lease:
    """A lease all of whose numbers tell its token."""
    return Lease(token, Instant(token, token + 1, token + 2), Instant(-token, 0.5, 0.25))


@pytest.fixture(params=["memory", "folder"])
def board(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    if request.param == "folder":
        without_files_in_memory(monkeypatch)
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


def test_the_file_of_a_worker_that_never_ran_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    without_files_in_memory(monkeypatch)
    forgotten = Board(KEY, "host:1:ab")
    path = Path(forgotten.path)
    assert path.exists()
    del forgotten
    gc.collect()
    assert not path.exists()
    assert variable(KEY) not in os.environ


def test_a_path_tells_who_made_the_board(board: Board) -> None:
    assert maker(board.path) == os.getpid()
    assert maker("/nowhere/at/all") is None


KILLED = """
import os, signal
del os.memfd_create
from celery_safe_leader._runtime.embedded.board import Board
board = Board("shop", "host:1:ab")
print(board.path, flush=True)
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
signal.pause()
"""


def test_the_file_of_a_killed_worker_is_removed_once_no_process_of_it_is_left(
    monkeypatch: pytest.MonkeyPatch, children: Children
) -> None:
    without_files_in_memory(monkeypatch)
    board = Board(KEY, "host:1:ab")
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
    assert not path.parent.exists()
    assert Path(board.path).exists()
    board.close()


def test_nothing_of_it_lies_in_the_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    board = Board(KEY, "host:1:ab")
    board.write(lease(7))
    assert BoardReader(board.path).read() == ("host:1:ab", lease(7))
    board.close()


def test_the_folder_of_a_living_worker_is_locked_as_cleaners_respect_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_files_in_memory(monkeypatch)
    board = Board(KEY, "host:1:ab")
    script = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), 6)"
    argv = [sys.executable, "-c", script, str(Path(board.path).parent)]
    assert "BlockingIOError" in subprocess.run(argv, capture_output=True, text=True).stderr
    board.close()
    assert not Path(board.path).parent.exists()


FULL = """
import os, resource, sys
from celery_safe_leader._runtime.embedded.board import Board
if sys.argv[1] == "folder":
    del os.memfd_create
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    Board("shop", "host:1:ab")
except OSError as exc:
    print("refused", type(exc).__name__)
"""


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_without_room_for_it_there_is_an_error_and_no_signal(kind: str) -> None:
    argv = [sys.executable, "-c", FULL, kind]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout == "refused OSError\n"


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_room_is_taken_by_a_write_whose_failure_is_an_error(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    # A file that was only made longer is given its room at the first write to the mapping: then a
    # full disk ends the process by SIGBUS.
    if kind == "folder":
        without_files_in_memory(monkeypatch)
    written: list[int] = []
    write = os.write

    def on_a_full_disk(handle: int, data: bytes) -> int:
        written.append(len(data))
        return write(handle, data[:100])

    monkeypatch.setattr(os, "write", on_a_full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        Board(KEY, "host:1:ab")
    assert len(written) == 1


def test_a_board_that_follows_another_of_the_same_path_is_known_from_it() -> None:
    first = Board(KEY, "host:1:ab")
    reader = BoardReader(first.path)
    assert reader.read() is None
    assert not reader.closed
    first.close()
    second = Board(KEY, "host:2:cd")
    assert reader.read() is None
    assert reader.closed
    second.close()


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
    enough = threading.Event()

    def write() -> None:
        for token in itertools.count(1):
            board.write(lease(token))
            if enough.is_set():
                return

    reader = BoardReader(board.path)
    seen: set[int] = set()

    def sees_another() -> bool:
        found = reader.read()
        if found is not None:
            token = found[1].fencing_token
            assert found == ("host:1:ab", lease(token))
            seen.add(token)
        return len(seen) >= 100

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(sees_another, interval=0.0)
    finally:
        enough.set()
        writer.join()


READ = """
import os, sys
from celery_safe_leader._runtime.embedded.board import BoardReader, maker, variable
if sys.argv[1] == "orphan" and os.fork():
    os._exit(0)
if sys.argv[1] == "orphan":
    while os.getppid() != 1 and os.getppid() == int(sys.argv[2]):
        pass
reader = BoardReader(os.environ[variable("shop")])
print(reader.read(), reader.is_foreign)
"""


def read_in_child(kind: str) -> str:
    argv = [sys.executable, "-c", READ, kind, str(os.getpid())]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


def test_a_child_reads_what_its_parent_wrote(board: Board) -> None:
    board.write(lease(7))
    assert "fencing_token=7" in read_in_child("child")
    assert read_in_child("child").endswith(" False\n")


def test_a_process_whose_parent_is_another_does_not_believe(board: Board) -> None:
    board.write(lease(7))
    assert read_in_child("orphan") == "None True\n"


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"x")
    with pytest.raises(ValueError, match="length"):
        BoardReader(str(tmp_path / "short"))
