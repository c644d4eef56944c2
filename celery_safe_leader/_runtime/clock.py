"""The clocks and the random source of this machine."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

from celery_safe_leader._core.instant import Instant

__all__ = ["Clock", "SystemClock", "host_in_ids", "new_candidate_id", "new_seed"]

_LONGEST_HOST = 64


class Clock(Protocol):
    """Reads the present moment."""

    def now(self) -> Instant:
        """Return the present moment on all clocks."""

    def before(self, deadline: Instant) -> bool:
        """Return whether no clock has reached the deadline."""


class SystemClock:
    """The clocks of the operating system; ``time.monotonic`` replaces one that is missing.

    Thread-safe and fork-safe: it has no state.
    """

    def __init__(self) -> None:
        self._boottime = _reader("CLOCK_BOOTTIME")
        self._raw = _reader("CLOCK_MONOTONIC_RAW")
        self._wall = time.time

    def now(self) -> Instant:
        """Return the present moment on all clocks."""
        return Instant(self._boottime(), self._raw(), self._wall())

    def before(self, deadline: Instant) -> bool:
        """Return whether no clock has reached the deadline. Called often, so it makes no object."""
        return (
            self._boottime() < deadline.boottime
            and self._raw() < deadline.raw
            and self._wall() < deadline.wall
        )


def _reader(name: str) -> Callable[[], float]:
    number = getattr(time, name, None)
    if number is None:
        return time.monotonic
    read = partial(time.clock_gettime, number)
    try:
        read()
    except OSError:
        return time.monotonic
    return read


def new_candidate_id() -> str:
    """Return a readable id that no other start has: ``host:pid:random``."""
    return f"{host_in_ids()}:{os.getpid()}:{secrets.token_hex(4)}"


def host_in_ids() -> str:
    """Return this machine's name as the ids of its candidates begin with it."""
    host = socket.gethostname()[:_LONGEST_HOST].encode("ascii", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else "?" for letter in host)


def new_seed() -> str:
    """Return random text from the system's source, so a fork does not share its state."""
    return secrets.token_hex(8)
