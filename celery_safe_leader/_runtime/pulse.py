"""What an embedded beat tells its worker: that it is alive, and that it must not lead for a while.

It is stored in the file of the worker's board, after the board's own data, so it needs no file of
its own. Each value has one writer, the beat.
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
        self._map[_REST : _REST + _SECONDS.size] = _SECONDS.pack(seconds)
        self._add(_WISHES)

    def _add(self, at: int) -> None:
        (count,) = _COUNT.unpack_from(self._map, at)
        self._map[at : at + _COUNT.size] = _COUNT.pack(count + 1)


class PulseReader:
    """The worker's end. Use it from one thread."""

    def __init__(self, board: str) -> None:
        """Make room in the file of a board.

        Raises:
            OSError: There is no room.
        """
        with open(board, "r+b") as file:
            os.ftruncate(file.fileno(), _SIZE)
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._wishes = 0

    @property
    def beats(self) -> int:
        """How often the beat has shown that it is alive."""
        return int(_COUNT.unpack_from(self._map, _BEATS)[0])

    def wish(self) -> float | None:
        """Return for how many seconds the beat wants to rest; ``None`` without a new wish."""
        (count,) = _COUNT.unpack_from(self._map, _WISHES)
        if count == self._wishes:
            return None
        self._wishes = count
        return float(_SECONDS.unpack_from(self._map, _REST)[0])
