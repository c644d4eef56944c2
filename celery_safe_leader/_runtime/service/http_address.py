"""Where a process answers: ``leader_http``, read and checked."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from celery_safe_leader.errors import ConfigurationError

__all__ = ["HttpAddress", "parse_address"]

_ALLOWED = (
    "'HOST:PORT' such as '127.0.0.1:9808' or '[::1]:9808', or the path of a unix socket such as "
    "'/run/shop/%r-%p.sock', in which %h is the host, %r the role and %p the process id"
)
_LONGEST_PATH = 107
"""Bytes of a unix socket's path, on Linux."""


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """A TCP port, or a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    """Of a unix socket, with its placeholders; empty for a TCP port."""

    def for_process(self, role: str) -> HttpAddress:
        """Return it with the placeholders of its path filled in."""
        if not self.path:
            return self
        filled = {"h": socket.gethostname(), "r": role, "p": str(os.getpid()), "%": "%"}
        parts = self.path.split("%")
        text, rest = parts[0], parts[1:]
        while rest:
            part = rest.pop(0)
            if not part and rest:  # %%
                text += "%" + rest.pop(0)
            else:
                text += filled[part[0]] + part[1:]
        return HttpAddress(path=text)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def parse_address(value: object) -> HttpAddress:
    """Return an address.

    Raises:
        ConfigurationError: It is not one.
    """
    if not isinstance(value, str):
        raise ConfigurationError("http", f"{value!r:.80} (a {type(value).__name__})", _ALLOWED)
    address = _path(value) if value.startswith(("/", "unix:")) else _port(value)
    if address is None:
        raise ConfigurationError("http", f"{value!r:.200}", _ALLOWED)
    return address


def _path(value: str) -> HttpAddress | None:
    path = value.removeprefix("unix:")
    marks = path.replace("%%", "").split("%")[1:]
    if not path.startswith("/") or not path.isprintable() or path.endswith("/"):
        return None
    if any(mark[:1] not in ("h", "r", "p") for mark in marks):
        return None
    # A placeholder may grow; what is certain is said at the start.
    return HttpAddress(path=path) if len(os.fsencode(path)) <= _LONGEST_PATH else None


def _port(value: str) -> HttpAddress | None:
    host, colon, digits = value.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    is_number = digits.isascii() and digits.isdigit() and len(digits) <= 5
    if not colon or not host or not is_number or not 0 < int(digits) < 65_536:
        return None
    if not host.isascii() or not host.isprintable() or any(each in host for each in "/@ "):
        return None
    return HttpAddress(host, int(digits))
