"""A wall clock for child processes that a test sets while they run; a compiler makes it."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["ShiftedClock", "needs_compiler"]

_SOURCE = Path(__file__).with_suffix(".c")
_NANOSECONDS = struct.Struct("<q" if sys.byteorder == "little" else ">q")
_COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)

needs_compiler = pytest.mark.skipif(
    _COMPILER is None or sys.platform != "linux" or sys.version_info < (3, 11),
    reason="needs a C compiler (cc), Linux, and a Python that does not wait by the wall clock",
)
"""Mark of tests that set clocks."""


class ShiftedClock:
    """The wall clock of the processes that are started with its environment.

    Args:
        folder: For its files; of one test.
        name: Of the clock; other ones of the same folder have others.
        ahead: Seconds by which it is ahead of this process's; negative if it is behind.
    """

    def __init__(self, folder: Path, name: str, ahead: float = 0.0) -> None:
        library = folder / "shifted_clock.so"
        if not library.exists():
            assert _COMPILER is not None
            command = [_COMPILER, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE)]
            subprocess.run(command, check=True)
        file = folder / f"{name}.clock"
        file.write_bytes(_NANOSECONDS.pack(0))
        descriptor = os.open(file, os.O_RDWR)
        self._map = mmap.mmap(descriptor, _NANOSECONDS.size)
        os.close(descriptor)
        self.env: Mapping[str, str] = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(file)}
        """For the processes that have this clock."""
        self.set(ahead)

    def set(self, ahead: float) -> None:
        """Set it to so many seconds ahead of this process's, at once for all that have it."""
        self._map[:] = _NANOSECONDS.pack(round(ahead * 1e9))
        self.ahead = ahead

    def step(self, seconds: float) -> None:
        """Set it forward by so many seconds; negative: back."""
        self.set(self.ahead + seconds)

    def time(self) -> float:
        """Return what it shows, in seconds since 1970."""
        return time.time() + self.ahead
