"""The leadership of a worker as all its processes see it: a small file that each of them maps.

The main process writes it. Pool children, forked or spawned, and threads read it without calling
Redis. The path is passed in the environment. The file has a sequence lock and a checksum: a reader
that cannot get a whole value in a few attempts assumes that this worker does not lead.

On Linux the file lies in memory alone, and its path leads through the main process: nothing can
clean it away, no disk can be full or read-only, and nothing is left behind. Elsewhere, and in a
process that others of its user may not look into (after ``celery worker --uid``), it is a temporary
file in a folder that the worker keeps locked for as long as it lives. Cleaners such as
systemd-tmpfiles leave locked folders alone; one that is not locked was left behind by a killed
worker, and the next worker that starts removes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import mmap
import os
import re
import shutil
import struct
import tempfile
import time
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant

__all__ = ["Board", "BoardReader", "maker", "variable"]

_SEQUENCE = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_VALUE = struct.Struct("<QQ6dH200s")
_START = _SEQUENCE.size
_END = _START + _VALUE.size
_SIZE = _END + _CHECKSUM.size
_PREFIX = "celery-safe-leader-"
"""Prefix of the names of files and folders."""
_PAUSES = (0.0, 0.0, 0.0, 0.0, 0.0005, 0.001, 0.002, 0.004, 0.008)
"""Seconds before each attempt to read. A writer may be preempted in the middle of a write; a task
must not mistake that for the end of its leadership."""
_NOBODY = 0
"""In place of the worker's process id once its board is closed."""


def variable(key: str) -> str:
    """Return the name of the environment variable for the path, for one ``leader_key``."""
    return f"SAFE_LEADER_BOARD_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def maker(path: str) -> int | None:
    """Return the process id of the worker that made the board of a path; ``None`` if not known."""
    found = re.match(rf"(?:/proc/|.*/{_PREFIX})(\d+)[/-]", path)
    return None if found is None else int(found[1])


class Board:
    """The writing end, in the worker's main process. Not thread-safe."""

    def __init__(self, key: str, candidate_id: str) -> None:
        """Make the file, and pass its path to the children in the environment.

        Raises:
            OSError: The file cannot be made, or there is no room for it.
        """
        self._pid = os.getpid()
        self._id = candidate_id.encode()[:200]
        self._sequence = 0
        self._variable = variable(key)
        handle, self.path, remove = _file_in_memory() or _file_in_a_locked_folder()
        # Also for a worker that is never started.
        self._remove = weakref.finalize(
            self,
            _in_process,
            self._pid,
            functools.partial(_forget, self._variable, self.path, remove),
        )
        try:
            # Room is taken here: a write to a mapping of a file without it ends the process.
            if os.write(handle, bytes(_SIZE)) != _SIZE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            self._map = mmap.mmap(handle, _SIZE)
        except BaseException:
            self._remove()
            raise
        self.write(None)
        os.environ[self._variable] = self.path

    def write(self, lease: Lease | None) -> None:
        """Write the lease, or that there is none."""
        self._write(lease, self._pid)

    def _write(self, lease: Lease | None, pid: int) -> None:
        none = (0.0, 0.0, 0.0)
        deadline = since = none
        token = 0
        if lease is not None:
            token = lease.fencing_token
            deadline, since = (
                (moment.boottime, moment.raw, moment.wall)
                for moment in (lease.deadline, lease.since)
            )
        value = _VALUE.pack(pid, token, *deadline, *since, len(self._id), self._id)
        self._map[:_START] = _SEQUENCE.pack(self._sequence + 1)
        self._map[_START:_END] = value
        self._map[_END:_SIZE] = _CHECKSUM.pack(zlib.crc32(value))
        self._sequence += 2
        self._map[:_START] = _SEQUENCE.pack(self._sequence)

    def close(self) -> None:
        """Write that there is no lease, and remove the file. May be called twice."""
        if self._pid != os.getpid() or self._map.closed:
            return
        self._write(None, _NOBODY)
        self._map.close()
        self._remove()


class BoardReader:
    """The reading end, in any process of the worker. Thread-safe."""

    def __init__(self, path: str) -> None:
        """Map the file.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not the file of a board.
        """
        self.path = path
        self.closed = False
        """Whether the worker was seen to have closed its board; another may have the same path."""
        self.is_foreign = False
        """Whether this is not a process of that worker, or no longer."""
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE, access=mmap.ACCESS_READ)
        self._seen: tuple[bytes, int, tuple[str, Lease] | None] = (b"", 0, None)

    def read(self) -> tuple[str, Lease] | None:
        """Return the candidate id and the lease, valid or not; ``None`` if there is none.

        Also ``None`` in an orphan, whose worker may be gone.
        """
        for pause in _PAUSES:
            if pause:
                time.sleep(pause)
            # Copied in one go. A copy made during a write fails one of the two checks.
            copy = self._map[:_SIZE]
            seen = self._seen
            if copy != seen[0]:
                value = copy[_START:_END]
                if copy[0] & 1 or copy[_END:] != _CHECKSUM.pack(zlib.crc32(value)):
                    continue
                # Stored as one object, for other threads; parsed only once for each renewal.
                seen = self._seen = (copy, *_parsed(value))
            _, pid, found = seen
            self.closed = pid == _NOBODY
            self.is_foreign = not self.closed and pid not in (os.getpid(), os.getppid())
            return None if self.is_foreign else found
        return None


def _file_in_memory() -> tuple[int, str, Callable[[], None]] | None:
    """Return a handle, the path for other processes, and what removes it; ``None`` without."""
    pid = os.getpid()
    try:
        if os.stat(f"/proc/{pid}/fd").st_uid != os.geteuid():
            # A process that has changed its user is closed to others, its own children included.
            return None
        handle = os.memfd_create(f"{_PREFIX}{pid}")
    except (AttributeError, OSError):
        return None
    return handle, f"/proc/{pid}/fd/{handle}", functools.partial(os.close, handle)


def _file_in_a_locked_folder() -> tuple[int, str, Callable[[], None]]:
    """Return a handle, the path for other processes, and what removes the folder."""
    _sweep()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    lock = _open_folder(folder)
    if lock is not None:
        _lock(lock)
    path = os.path.join(folder, "board")
    binary: int = getattr(os, "O_BINARY", 0)  # on Windows
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | binary, 0o600)

    def remove() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
        if lock is not None:
            os.close(lock)

    return handle, path, remove


def _sweep() -> None:
    """Remove the folders of this user's workers that are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Gone meanwhile, another user's, or locked by a living worker.
        with contextlib.suppress(OSError):
            handle = _open_folder(folder)
            if handle is None:
                return
            try:
                if _lock(handle) and os.fstat(handle).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _open_folder(path: str | Path) -> int | None:
    """Return a handle of a folder, but not through a link; ``None`` on Windows, which has none."""
    flags = [getattr(os, name, None) for name in ("O_NOFOLLOW", "O_DIRECTORY")]
    if None in flags:
        return None
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)


def _lock(handle: int) -> bool:
    """Lock a folder; return ``False`` if another process holds it, or it cannot be locked."""
    try:
        import fcntl  # not on Windows, where producers import this module

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def _in_process(pid: int, action: Callable[[], None]) -> None:
    if pid == os.getpid():
        with contextlib.suppress(OSError):
            action()


def _forget(name: str, path: str, remove: Callable[[], None]) -> None:
    """Take a board out of the environment, so that no later child looks for it; remove it."""
    if os.environ.get(name) == path:
        del os.environ[name]
    remove()


def _parsed(value: bytes) -> tuple[int, tuple[str, Lease] | None]:
    pid, token, *moments, size, name = _VALUE.unpack(value)
    if not token:
        return pid, None
    lease = Lease(token, Instant(*moments[:3]), Instant(*moments[3:]))
    return pid, (name[:size].decode(errors="replace"), lease)
