"""The links of the proxy: pairs of connections, and what may happen to their bytes.

All of it runs in the proxy's event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Link", "Settings"]


@dataclass
class Settings:
    """How a proxy behaves now."""

    delay: float = 0.0
    """Seconds, each way."""
    black_hole: bool = False
    """Whether new links are born dead."""
    wanted: tuple[bytes, threading.Event] | None = None
    """Which request is the last of its connection, and what to set then."""


class End(asyncio.Protocol):
    """One of the two connections of a link; hands what it receives to the other."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._queue: deque[bytes] = deque()
        self._last_due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.link.connected(self)
        early, self._early = self._early, []
        for data in early:
            self._write(data)

    def data_received(self, data: bytes) -> None:
        self.link.received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.link.lost(self)

    def send(self, data: bytes, delay: float) -> None:
        """Write after a delay, in the order of the calls."""
        loop = asyncio.get_running_loop()
        if delay == 0 and not self._queue:
            self._write(data)
            return
        # Timers of one moment fire in any order: each sends the oldest, whichever it is.
        self._last_due = max(self._last_due, loop.time() + delay)
        self._queue.append(data)
        loop.call_at(self._last_due, self._send_oldest)

    def _send_oldest(self) -> None:
        if self._queue:
            self._write(self._queue.popleft())

    def _write(self, data: bytes) -> None:
        if self.transport is None:
            # Not connected yet; or not any more, and then nobody asks for it.
            self._early.append(data)
        elif not self.transport.is_closing():
            self.transport.write(data)

    def finish(self, delay: float) -> None:
        """Close after all that is under way was delivered."""
        if self.transport is None:
            return
        if delay == 0 and not self._queue:
            self.transport.close()
            return
        loop = asyncio.get_running_loop()
        # Never before a timer of the same moment.
        self._last_due = max(self._last_due, loop.time() + delay) + 1e-6
        loop.call_at(self._last_due, self.transport.close)

    def forget(self) -> None:
        """Lose what is under way."""
        self._early.clear()
        self._queue.clear()

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self.forget()
        if self.transport is not None:
            self.transport.abort()


class Link:
    """A client's connection and the proxy's own to the server.

    Args:
        settings: How the proxy behaves now.
        opened: Called when the client has connected.
        ended: Called when both connections are gone.
    """

    def __init__(
        self, settings: Settings, opened: Callable[[Link], None], ended: Callable[[Link], None]
    ) -> None:
        self._settings = settings
        self._opened = opened
        self._ended = ended
        self.client = End(self)
        self.server = End(self)
        self.dead = False
        self._request_tail = b""
        self._cut_at_reply: threading.Event | None = None

    def connected(self, end: End) -> None:
        if end is self.client:
            self._opened(self)
        elif self.client.transport is None:
            end.abort()

    def received(self, end: End, data: bytes) -> None:
        if self.dead:
            return
        if end is self.client:
            self._look_for_match(data)
            self.server.send(data, self._settings.delay)
        elif self._cut_at_reply is not None:
            done, self._cut_at_reply = self._cut_at_reply, None
            self.cut()
            done.set()
        else:
            self.client.send(data, self._settings.delay)

    def _look_for_match(self, data: bytes) -> None:
        wanted = self._settings.wanted
        if wanted is None:
            return
        match, done = wanted
        seen = self._request_tail + data
        self._request_tail = seen[-(len(match) - 1) :] if len(match) > 1 else b""
        if match in seen:
            self._settings.wanted = None
            self._cut_at_reply = done

    def lost(self, end: End) -> None:
        """Pass an end on, unless the link is dead: then neither side hears of the other."""
        other = self.server if end is self.client else self.client
        if not self.dead:
            other.finish(self._settings.delay)
        if self.client.transport is None and self.server.transport is None:
            self._ended(self)

    def die(self) -> None:
        self.dead = True
        self.client.forget()
        self.server.forget()

    def cut(self) -> None:
        self.client.abort()
        self.server.abort()
