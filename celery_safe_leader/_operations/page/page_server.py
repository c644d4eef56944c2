"""Serves the page: waitress, with bounds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

from waitress.server import create_server

__all__ = ["listen", "serve"]

_THREADS = 8
_CONNECTIONS = 100
_IDLE = 30
"""Seconds after which a connection is closed that says nothing."""
_MOST_BYTES = 16_384
"""Of a request's head, and of its body."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OSError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=64)


def serve(page: Callable[..., Iterable[bytes]], listening: socket.socket) -> None:
    """Answer until Ctrl-C, or until something raises ``SystemExit``. Closes the socket."""
    server = create_server(
        page,
        sockets=[listening],
        threads=_THREADS,
        connection_limit=_CONNECTIONS,
        channel_timeout=_IDLE,
        max_request_header_size=_MOST_BYTES,
        max_request_body_size=_MOST_BYTES,
        ident=None,
    )
    try:
        server.run()
    finally:
        server.close()
