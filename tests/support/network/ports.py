"""Ports for servers of tests.

They lie below the kernel's range for outgoing connections. In it, a client that keeps connecting
to a server that is down sooner or later gets that very port as its own and connects to itself;
and any outgoing connection may hold the port when the server is to come back on it.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

__all__ = ["free_port"]

_LOWEST = 15000
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Its own generator of the kernel: Hypothesis and tests seed the module's.
_random = random.SystemRandom()


def _below_outgoing() -> int:
    if not _RANGE_FILE.exists():
        return 32768
    first = int(_RANGE_FILE.read_text().split()[0])
    return first if first > _LOWEST + 1000 else 65536


def free_port() -> int:
    """Find a port on 127.0.0.1 that nobody listens on now. Another process may be faster."""
    for _ in range(200):
        port = _random.randrange(_LOWEST, _below_outgoing())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port on 127.0.0.1 from {_LOWEST} to {_below_outgoing() - 1}")
