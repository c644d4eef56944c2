"""Tells systemd that a process is ready, alive, and who leads.

The protocol is one datagram to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)), so no
library is needed for it: those for Python either need libsystemd, or are no longer kept.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping

from celery_safe_leader._loggers import library_logger as logger

__all__ = ["ServiceNotifier"]

_LOOK_EVERY = 1.0
"""Seconds between two looks at the status."""
_LONGEST_STATUS = 200
"""Characters."""


class ServiceNotifier:
    """Sends READY=1, STATUS= and WATCHDOG=1, if systemd started this process and wants them.

    Args:
        is_turning: Whether the loop of this process turns; asked on a background thread.
        status: Returns what ``systemctl status`` is to show; must not block.
        environ: Of the process.
    """

    def __init__(
        self,
        is_turning: Callable[[], bool],
        status: Callable[[], str],
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._is_turning = is_turning
        self._status = status
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._interval = _watchdog_interval(environ)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._has_failed = False
        self._pid = os.getpid()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a socket to notify."""
        return bool(self._address)

    def start(self) -> None:
        """Say that this process is ready, and go on telling. May be called again."""
        if self.is_wanted and self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._run, name="leader:systemd", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Say that this process ends."""
        if self._thread is not None and not self._ending.is_set():
            self._ending.set()
            self._send("STOPPING=1")

    def _run(self) -> None:
        pause = min(_LOOK_EVERY, self._interval or _LOOK_EVERY)
        said = self._shown_status()
        self._send(f"READY=1\nSTATUS={said}")
        next_at = time.monotonic()
        while not self._ending.wait(pause):
            now = self._shown_status()
            if now != said:
                said = now
                self._send(f"STATUS={said}")
            if self._interval and time.monotonic() >= next_at and self._is_turning():
                next_at = time.monotonic() + self._interval - pause / 2
                self._send("WATCHDOG=1")

    def _shown_status(self) -> str:
        try:
            text = self._status()
        except Exception as exc:
            text = f"unknown: {exc!r}"
        return " ".join(text.split())[:_LONGEST_STATUS]

    def _send(self, message: str) -> None:
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(1.0)
                sender.sendto(message.encode("utf-8", "replace"), address)
            self._has_failed = False
        except (OSError, ValueError) as exc:
            if not self._has_failed:
                self._has_failed = True
                logger.warning("systemd cannot be notified at %s: %s", self._address, exc)


def _watchdog_interval(environ: Mapping[str, str]) -> float:
    """Return seconds between two signs of life, half of what systemd allows; 0 for none."""
    microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (microseconds.isascii() and microseconds.isdigit()):
        return 0.0
    if pid and pid != str(os.getpid()):
        return 0.0  # another process of the service is watched
    return int(microseconds[:16]) / 2e6
