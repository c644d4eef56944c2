"""What an embedded beat tells its worker: that it is alive, and whether it can do its work.

It is stored in the file of the worker's board, after the board's own data, so it needs no file of
its own. Each value has one writer, the beat; it outlives it, for the one that takes its place.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib

__all__ = ["Pulse", "PulseReader"]

_COUNT = struct.Struct("<Q")
_SECONDS = struct.Struct("<d")
_WORD = struct.Struct("<24s")
_BEATS, _WISHES, _REST = 1024, 1032, 1040  # a board has fewer than 512 bytes
_STANDS, _WHY, _PATIENCE, _SUCCESSES = 1048, 1056, 1080, 1088
_HEAD = struct.Struct("<II")
_SAID, _TEXT = 1096, 1096 + _HEAD.size
LONGEST = 3072
"""Bytes of what a beat says of its work."""
_COUNTED, _COUNTS = _TEXT + LONGEST, _TEXT + LONGEST + _HEAD.size
MOST_COUNTS = 8192
"""Bytes of a beat's metrics."""
_SIZE = _COUNTS + MOST_COUNTS


class Pulse:
    """The beat's end. Thread-safe if only one thread calls each method."""

    def __init__(self, board: str) -> None:
        """Map the file of a board.

        Raises:
            OSError: It cannot be opened.
            ValueError: The worker of this board does not read a pulse.
        """
        with open(board, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def beat(self) -> None:
        """Show that this process is alive."""
        self._add(_BEATS)

    def wish_to_rest(self, seconds: float) -> None:
        """Ask the worker to resign and not to take part for so long."""
        self._write(_REST, _SECONDS.pack(seconds))
        self._add(_WISHES)

    def stand_down(self, why: str, patience: float) -> None:
        """Say that this beat cannot do its work.

        Args:
            why: For the election's history: a word.
            patience: Seconds for which the next one is to try before it says the same.
        """
        self._write(_WHY, _WORD.pack(why.encode()))
        self._write(_PATIENCE, _SECONDS.pack(patience))
        self._add(_STANDS)

    def say(self, text: bytes) -> None:
        """Say what this beat did in its tenure, for people; nothing if it is too long."""
        self._write_text(_SAID, text if len(text) <= LONGEST else b"")

    def count(self, metrics: bytes) -> None:
        """Say what this beat has counted since its start; nothing if it is too long."""
        self._write_text(_COUNTED, metrics if len(metrics) <= MOST_COUNTS else b"")

    def succeed(self) -> None:
        """Say that this beat can do its work, after it or the one before could not."""
        self._write(_PATIENCE, _SECONDS.pack(0.0))
        self._add(_SUCCESSES)

    @property
    def patience(self) -> float:
        """Seconds that the last beat left for this one to try; 0 if it could do its work."""
        return float(_SECONDS.unpack_from(self._map, _PATIENCE)[0])

    def _add(self, at: int) -> None:
        (count,) = _COUNT.unpack_from(self._map, at)
        self._write(at, _COUNT.pack(count + 1))

    def _write_text(self, at: int, text: bytes) -> None:
        # A reader that finds half of it finds another checksum.
        self._write(at + _HEAD.size, text)
        self._write(at, _HEAD.pack(len(text), zlib.crc32(text)))

    def _write(self, at: int, value: bytes) -> None:
        self._map[at : at + len(value)] = value


class PulseReader:
    """The worker's end. Use it from one thread; any may read what the beat said."""

    def __init__(self, board: str) -> None:
        """Make room in the file of a board.

        Raises:
            OSError: There is no room.
        """
        with open(board, "r+b") as file:
            os.ftruncate(file.fileno(), _SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._seen = dict.fromkeys((_WISHES, _STANDS, _SUCCESSES), 0)

    @property
    def beats(self) -> int:
        """How often the beat has shown that it is alive."""
        return self._count(_BEATS)

    def wish(self) -> float | None:
        """Return for how many seconds the beat wants to rest; ``None`` without a new wish."""
        if not self._is_new(_WISHES):
            return None
        return float(_SECONDS.unpack_from(self._map, _REST)[0])

    def stood_down(self) -> str | None:
        """Return why the beat cannot do its work; ``None`` if it has not said so anew."""
        if not self._is_new(_STANDS):
            return None
        word: bytes = _WORD.unpack_from(self._map, _WHY)[0]
        return word.rstrip(b"\0").decode()

    def succeeded(self) -> bool:
        """Return whether the beat has said anew that it can do its work."""
        return self._is_new(_SUCCESSES)

    def said(self) -> bytes:
        """Return what the beat said last of its work; nothing while it is being written."""
        return self._text(_SAID, LONGEST)

    def counted(self) -> bytes:
        """Return what the beat said last that it had counted; nothing while it is written."""
        return self._text(_COUNTED, MOST_COUNTS)

    def _text(self, at: int, longest: int) -> bytes:
        size, checksum = _HEAD.unpack_from(self._map, at)
        start = at + _HEAD.size
        text = self._map[start : start + min(size, longest)]
        return text if zlib.crc32(text) == checksum else b""

    def _count(self, at: int) -> int:
        return int(_COUNT.unpack_from(self._map, at)[0])

    def _is_new(self, at: int) -> bool:
        before, self._seen[at] = self._seen[at], self._count(at)
        return self._seen[at] != before
