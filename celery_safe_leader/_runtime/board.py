"""The leadership of a worker as all its processes see it: a small file that each of them maps.

The main process writes it. Pool children, forked or spawned, and threads read it without calling
Redis. The path is passed in the environment. The file has a sequence lock and a checksum: a reader
that cannot get a whole value in a few attempts assumes that this worker does not lead.

The worker holds a file lock on it for as long as it lives, in whichever container. A file that a
killed worker left behind is not locked, and the next worker that starts removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import struct
import tempfile
import time
import weakref
import zlib
from pathlib import Path

from celery_safe_leader._core.events import Lease
from celery_safe_leader._core.instant import Instant

__all__ = ["Board", "BoardReader", "variable"]

_SEQUENCE = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_VALUE = struct.Struct("<QQ6dH200s")
_START = _SEQUENCE.size
_END = _START + _VALUE.size
_SIZE = _END + _CHECKSUM.size
_PREFIX = "celery-safe-leader-"
"""Prefix of the files' names."""
_PAUSES = (0.0, 0.0, 0.0, 0.0, 0.0005, 0.001, 0.002, 0.004, 0.008)
"""Seconds before each attempt to read. A writer may be preempted in the middle of a write; a task
must not mistake that for the end of its leadership."""


def variable(key: str) -> str:
    """Return the name of the environment variable for the path, for one ``leader_key``."""
    return f"SAFE_LEADER_BOARD_{hashlib.sha256(key.encode()).hexdigest()[:16]}"


class Board:
    """The writing end, in the worker's main process. Not thread-safe."""

    def __init__(self, key: str, candidate_id: str) -> None:
        """Make the file, and pass its path to the children in the environment.

        Raises:
            OSError: Temporary files cannot be made.
        """
        self._pid = os.getpid()
        self._id = candidate_id.encode()[:200]
        self._sequence = 0
        self._variable = variable(key)
        _sweep()
        handle, self.path = _locked_file(self._pid)
        try:
            os.ftruncate(handle, _SIZE)
            # The mapping keeps a copy of the handle, and with it the lock.
            self._map = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)
        # Also for a worker that is never started.
        self._remove = weakref.finalize(self, _remove, self.path, self._pid)
        self.write(None)
        os.environ[self._variable] = self.path

    def write(self, lease: Lease | None) -> None:
        """Write the lease, or that there is none."""
        none = (0.0, 0.0, 0.0)
        deadline = since = none
        token = 0
        if lease is not None:
            token = lease.fencing_token
            deadline, since = (
                (moment.boottime, moment.raw, moment.wall)
                for moment in (lease.deadline, lease.since)
            )
        value = _VALUE.pack(self._pid, token, *deadline, *since, len(self._id), self._id)
        self._map[:_START] = _SEQUENCE.pack(self._sequence + 1)
        self._map[_START:_END] = value
        self._map[_END:_SIZE] = _CHECKSUM.pack(zlib.crc32(value))
        self._sequence += 2
        self._map[:_START] = _SEQUENCE.pack(self._sequence)

    def close(self) -> None:
        """Write that there is no lease, and remove the file. May be called twice."""
        if self._pid != os.getpid() or self._map.closed:
            return
        self.write(None)
        self._map.close()
        if os.environ.get(self._variable) == self.path:
            del os.environ[self._variable]
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
            return found if pid in (os.getpid(), os.getppid()) else None
        return None


def _locked_file(pid: int) -> tuple[int, str]:
    while True:
        handle, path = tempfile.mkstemp(prefix=f"{_PREFIX}{pid}-")
        with contextlib.suppress(OSError):
            # On a file system without locks no other worker gets one either.
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, path
        # Another worker removed it before we had the lock.
        os.close(handle)


def _sweep() -> None:
    """Remove the files of this user's workers that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # Gone meanwhile, another user's, or locked by a living worker.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(handle).st_uid == os.geteuid():
                    path.unlink()
            finally:
                os.close(handle)


def _remove(path: str, pid: int) -> None:
    if pid == os.getpid():
        with contextlib.suppress(OSError):
            os.unlink(path)


def _parsed(value: bytes) -> tuple[int, tuple[str, Lease] | None]:
    pid, token, *moments, size, name = _VALUE.unpack(value)
    if not token:
        return pid, None
    lease = Lease(token, Instant(*moments[:3]), Instant(*moments[3:]))
    return pid, (name[:size].decode(errors="replace"), lease)
