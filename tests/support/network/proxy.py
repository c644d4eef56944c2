"""A TCP proxy whose link fails on order.

It runs an event loop in a thread of its own. Every method takes effect before it returns.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from tests.support.network.links import Link, Settings
from tests.support.network.ports import free_port

__all__ = ["Proxy"]

T = TypeVar("T")


class Proxy:
    """Listens on a port of its own, which stays the same, and passes all on to a server.

    If the server is down, clients see their connection accepted and closed.

    Args:
        port: The server's port.
        host: The server's address.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self.host = "127.0.0.1"
        self.port = 0
        self._settings = Settings()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.accept()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port

    def url(self, password: str = "", db: int = 0) -> str:
        """Build the ``redis://`` URL of the server behind, by way of the proxy."""
        login = f":{password}@" if password else ""
        return f"redis://{login}{self.host}:{self.port}/{db}"

    @property
    def connections(self) -> int:
        """How many connections of clients are open, dead ones included."""
        return self._do(lambda: sum(link.client.transport is not None for link in self._links))

    def black_hole(self) -> None:
        """Lose all bytes both ways, on present and new connections. Connecting still works."""
        self._do(self._black_hole)

    def _black_hole(self) -> None:
        self._settings.black_hole = True
        for link in self._links:
            link.die()

    def heal(self) -> None:
        """End ``black_hole()`` and ``delay()`` for new connections.

        What was sent meanwhile is lost. Connections that were there in a black hole stay dead
        until somebody gives them up, as after a firewall forgot them.
        """
        self._do(self._heal)

    def _heal(self) -> None:
        self._settings.black_hole = False
        self._settings.delay = 0.0

    def delay(self, seconds: float) -> None:
        """Deliver all that arrives from now on so much later, each way."""
        self._do(lambda: setattr(self._settings, "delay", seconds))

    def cut(self) -> None:
        """Close all connections now. New ones are accepted."""
        self._do(self._cut)

    def _cut(self) -> None:
        for link in list(self._links):
            link.cut()

    def point_at(self, port: int, host: str = "127.0.0.1") -> None:
        """Pass all on to another server from now on, as after a failover; cuts what is open."""
        self._target = (host, port)
        self.cut()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, present ones stay."""
        asyncio.run_coroutine_threadsafe(self._close_listener(), self._loop).result(10)

    async def _close_listener(self) -> None:
        if self._listener is None:
            return
        for listening in self._listener.sockets:
            self._loop.remove_reader(listening.fileno())
        # Who was accepted a moment ago comes in first: a closed server would leave the socket open.
        current = asyncio.current_task()
        while coming := asyncio.all_tasks() - self._tasks - {current}:
            await asyncio.gather(*coming, return_exceptions=True)
        self._listener.close()
        self._listener = None

    def accept(self) -> None:
        """Listen again after ``refuse()``."""
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    async def _listen(self) -> None:
        if self._listener is None:
            listening = self._bind()
            self._listener = await self._loop.create_server(self._new_client, sock=listening)

    def _bind(self) -> socket.socket:
        for attempt in range(5):
            listening = socket.socket()
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((self.host, self.port or free_port()))
            except OSError:
                listening.close()
                if self.port or attempt == 4:
                    raise
                continue
            self.port = listening.getsockname()[1]
            return listening
        raise AssertionError("unreachable")

    def cut_after_request(self, match: bytes) -> threading.Event:
        """Let one request reach the server, and cut its connection instead of delivering a reply.

        The cut comes with the first bytes that the server sends after the request: it was
        executed. Holds for the next request of any connection in which the bytes occur, once.

        Args:
            match: Part of the request as it goes over the wire, such as ``b"EVALSHA"``.

        Returns:
            Set once the connection was cut.
        """
        done = threading.Event()
        self._do(lambda: setattr(self._settings, "wanted", (match, done)))
        return done

    def _new_client(self) -> asyncio.Protocol:
        return Link(self._settings, self._add, self._links.discard).client

    def _add(self, link: Link) -> None:
        if self._closed:
            link.cut()
            return
        self._links.add(link)
        if self._settings.black_hole:
            link.die()
            return
        task = self._loop.create_task(self._connect(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, link: Link) -> None:
        try:
            await self._loop.create_connection(lambda: link.server, *self._target)
        except OSError:
            link.cut()

    def _do(self, action: Callable[[], T]) -> T:
        """Run an action in the loop's thread, and return its result."""

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def close(self) -> None:
        """Close everything and end the thread. May be called again."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _shut_down(self) -> None:
        self._closed = True
        await self._close_listener()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._cut()
        # Aborted transports close their sockets in the loop's next rounds.
        for _ in range(5):
            await asyncio.sleep(0)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
