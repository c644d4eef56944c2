"""What an embedded beat tells its worker: that it runs, and that it must not lead for a while.

It stands in the file of the worker's board, behind what the board shows, so it needs no file of
its own. Each word has one writer, the beat.
"""

from __future__ import annotations

import mmap
import os
import struct

__all__ = ["Pulse", "PulseReader"]

_COUNT = struct.Struct("<Q")
_SECONDS = struct.Struct("<d")
_BEATS, _WISHES, _REST = 1024, 1032, 1040  # a board has fewer than 512 bytes
_SIZE = 1048


class Pulse:
    """The beat's end. Thread-safe as far as one thread beats and one wishes."""

    def __init__(self, board: str) -> None:
        """Map the file of a board.

        Raises:
            OSError: It cannot be opened.
            ValueError: No worker reads the pulse of this board.
        """
        with open(board, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def beat(self) -> None:
        """Say that this process runs."""
        self._add(_BEATS)

    def wish_to_rest(self, seconds: float) -> None:
        """Ask the worker to resign and to stay away for so long."""
        self._map[_REST : _REST + _SECONDS.size] = _SECONDS.pack(seconds)
        self._add(_WISHES)

    def _add(self, at: int) -> None:
        (count,) = _COUNT.unpack_from(self._map, at)
        self._map[at : at + _COUNT.size] = _COUNT.pack(count + 1)


class PulseReader:
    """The worker's end. For one thread."""

    def __init__(self, board: str) -> None:
        """Make room in the file of a board.

        Raises:
            OSError: There is none.
        """
        with open(board, "r+b") as file:
            os.ftruncate(file.fileno(), _SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._wishes = 0

    @property
    def beats(self) -> int:
        """How often the beat has said that it runs."""
        return int(_COUNT.unpack_from(self._map, _BEATS)[0])

    def wish(self) -> float | None:
        """Return for how many seconds the beat wants to rest, once for each time it says so."""
        (count,) = _COUNT.unpack_from(self._map, _WISHES)
        if count == self._wishes:
            return None
        self._wishes = count
        return float(_SECONDS.unpack_from(self._map, _REST)[0])
