"""Counts messages where they arrive: a MONITOR of the broker that misses nothing, or says so."""

from __future__ import annotations

import secrets
import socket
import threading
from typing import Any

from tests.soak.pushes import PUSHES, Push, Pushed, messages, read_push
from tests.support.processes import wait_until
from tests.support.processes.cleanup import Closes
from tests.support.servers import Server

__all__ = ["Monitor"]

_PIECE = 1 << 20
_DEAF = 30.0
"""Seconds after which a server that says nothing of a command it was given counts as lost."""


class Monitor(Closes):
    """Reads all that is put into lists of a server, from the constructor to ``finish()``.

    MONITOR shows the commands of scripts, too. A thread does nothing but read it, and the server is
    told to keep whatever is not read yet. Whether all was seen is checked in the end against the
    server's own count of commands.

    Args:
        server: Without a password, and with nobody who pushes yet.
    """

    def __init__(self, server: Server) -> None:
        self.void = ""
        """Why the count is worth nothing; empty if it is."""
        self._client = server.client()
        # MONITOR counts as a normal client. A limit of 0 is none.
        self._client.config_set("client-output-buffer-limit", "normal 0 0 0")
        self._news = threading.Condition()
        self._pushes = 0
        self._messages: list[Pushed] = []
        self._awaited = b""
        self._heard = False
        self._closed = False
        self._before = self._counted_by_server()
        self._socket = socket.create_connection((server.host, server.port))
        self._socket.sendall(b"MONITOR\r\n")
        reply = self._socket.recv(5)
        if reply != b"+OK\r\n":
            raise AssertionError(f"MONITOR was answered with {reply!r}")
        self._thread = threading.Thread(target=self._read, name="monitor", daemon=True)
        self._thread.start()

    def messages(self) -> list[Pushed]:
        """Return all messages of entries so far, in the order of their arrival."""
        with self._news:
            return list(self._messages)

    def wait_for_message(self, timeout: float) -> bool:
        """Wait for the next message of an entry; return whether one came in time."""
        with self._news:
            before = len(self._messages)
            return self._news.wait_for(lambda: len(self._messages) > before, timeout)

    def finish(self) -> None:
        """Read up to here, and compare with the server's count; sets ``void``."""
        if not self.void:
            self._wait_for_marker()
        calls, failed = self._counted_by_server()
        calls, failed = calls - self._before[0], failed - self._before[1]
        if failed:
            self.void = self.void or f"{failed} pushes failed; MONITOR shows them like the others"
        if calls != self._pushes:
            self.void = self.void or f"MONITOR showed {self._pushes} pushes of {calls}"

    def _counted_by_server(self) -> tuple[int, int]:
        counts: dict[str, Any] = self._client.info("commandstats")
        found = [counts.get(f"cmdstat_{name}", {}) for name in PUSHES]
        calls, failed = (sum(each.get(n, 0) for each in found) for n in ("calls", "failed_calls"))
        return calls, failed

    def _wait_for_marker(self) -> None:
        marker = secrets.token_hex(16)
        with self._news:
            self._awaited, self._heard = marker.encode(), False
        self._client.echo(marker)
        wait_until(lambda: self._heard or self.void, _DEAF, "what MONITOR says of a command")

    def _read(self) -> None:
        rest = b""
        try:
            while piece := self._socket.recv(_PIECE):
                *lines, rest = (rest + piece).split(b"\r\n")
                for line in lines:
                    self._take(line)
            why = "the server closed the connection of MONITOR"
        except Exception as exc:  # whatever it is, nobody counts from here on
            why = f"reading MONITOR failed: {exc!r}"
        if not self._closed:
            self.void = self.void or why

    def _take(self, line: bytes) -> None:
        if self._awaited and self._awaited in line:
            self._heard = True
        push: Push | None = read_push(line)
        if push is None:
            return
        found = list(messages(push))
        with self._news:
            self._pushes += 1
            self._messages += found
            self._news.notify_all()

    def close(self) -> None:
        """End it."""
        self._closed = True
        self._socket.close()
