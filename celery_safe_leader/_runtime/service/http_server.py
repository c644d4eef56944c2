"""A small HTTP server for probes and monitors: the standard library's, with bounds.

It runs on threads of its own and only reads. Sixteen requests at most are answered at a time; who
comes then is turned away, so that no client can take memory or time from what this process is for.
"""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import json
import os
import socket
import socketserver
import stat
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._runtime.service.http_address import HttpAddress
from celery_safe_leader._runtime.service.http_host import names_this_host

__all__ = ["HttpAnswer", "HttpServer"]

_MOST_AT_A_TIME = 16
_MOST_BYTES = 16_384
"""Of a request."""
_LONGEST = 5.0
"""Seconds from the connection of a client to the end of its answer."""
_TRY_AGAIN = 5.0
_COMPLAIN_EVERY = 60.0
_POLL = 0.25
"""All in seconds."""
_listening: weakref.WeakSet[socketserver.TCPServer] = weakref.WeakSet()


class HttpAnswer(NamedTuple):
    """What is answered."""

    status: HTTPStatus
    body: bytes
    kind: str = "application/json"

    @classmethod
    def of(cls, status: HTTPStatus, fields: Mapping[str, Any]) -> HttpAnswer:
        """Return fields as JSON."""
        return cls(status, json.dumps(fields).encode() + b"\n")


class HttpServer:
    """Answers at an address, as soon as it can be had, until it is closed.

    Args:
        address: Where.
        pages: Path -> what answers a GET of it; called on a thread of the request.
    """

    def __init__(self, address: HttpAddress, pages: Mapping[str, Callable[[], HttpAnswer]]) -> None:
        self.address = address
        self._pages = pages
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._server: _Server | None = None
        self._complain_at = 0.0
        self._pid = os.getpid()

    @property
    def is_listening(self) -> bool:
        """Whether the address is taken, and answers."""
        return self._server is not None

    def start(self) -> None:
        """HttpAnswer from now on, or from when the address is free. May be called again."""
        if self._thread is None and not self._ending.is_set():
            self._thread = threading.Thread(target=self._run, name="leader:http", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """HttpAnswer no more. Does not wait for answers that are under way."""
        self._ending.set()
        server, self._server = self._server, None
        if server is not None and self._pid == os.getpid():
            server.shutdown()
            server.server_close()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                server = _listen(self.address, self._pages)
            except Exception as exc:
                self._complain(exc)
                self._ending.wait(_TRY_AGAIN)
                continue
            self._server = server
            logger.info("Answering health checks at %s", self.address)
            if self._ending.is_set():  # closed meanwhile
                server.server_close()
                return
            try:
                server.serve_forever(_POLL)
            except Exception as exc:
                self._complain(exc)
            finally:
                self._server = None
                server.server_close()

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_EVERY
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            logger.error(
                "Health checks cannot be answered at %s (leader_http): %s. Trying again; nothing "
                "else waits for it",
                self.address,
                why,
            )


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    allow_reuse_port = False

    def __init__(self, address: HttpAddress, pages: Mapping[str, Callable[[], HttpAnswer]]) -> None:
        self.pages = pages
        self.checks_host = not address.path
        self._slots = threading.BoundedSemaphore(_MOST_AT_A_TIME)
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._lock = threading.Lock()
        self._is_bound = False
        if ":" in address.host:
            self.address_family = socket.AF_INET6
        elif address.path:
            self.address_family = socket.AF_UNIX
        self._path = address.path
        where: Any = address.path or (address.host, address.port)
        super().__init__(where, _Handler)

    def server_bind(self) -> None:
        """Bind; a unix socket is this user's alone from its first moment on."""
        if not self._path:
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
            return
        _remove_stale(self._path)
        os.fchmod(self.socket.fileno(), 0o600)
        self.socket.bind(self._path)
        self._is_bound = True
        self.server_name, self.server_port = "localhost", 0

    def server_close(self) -> None:
        """Remove a unix socket, and close. May be called again."""
        with self._lock:
            # In this order, and once: afterwards the name may be another process's.
            if self._path and self._is_bound:
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
            self._is_bound = False
            super().server_close()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; who comes over a unix socket has no address."""
        request, where = super().get_request()
        return request, where or ("", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a background thread, unless there are too many already."""
        if not self._slots.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._lock:
            self._open[id(request)] = (request, time.monotonic() + _LONGEST)
        try:
            super().process_request(request, client_address)
        except BaseException:  # there can be no more threads
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """HttpAnswer, and let another one come."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        with self._lock:
            known = self._open.pop(id(request), None)
        if known is not None:
            self._slots.release()

    def service_actions(self) -> None:
        """Cut off who takes too long, however little it sends each time."""
        now = time.monotonic()
        with self._lock:
            late = [request for request, until in self._open.values() if now >= until]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""
        logger.debug("A request for a health check failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    server_version = "celery-safe-leader"
    sys_version = ""
    timeout = _LONGEST
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s\n"
    _allow = False

    def setup(self) -> None:
        """Read no more than a request may have."""
        super().setup()
        self._bounded = _Bounded(self.rfile, _MOST_BYTES)
        self.rfile = io.BufferedReader(self._bounded)

    def parse_request(self) -> bool:
        """Refuse what is not a GET for this host."""
        if not super().parse_request():
            return False
        if self._bounded.is_spent:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self.command != "GET":
            self._allow = True
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
        elif self.server.checks_host and not names_this_host(self.headers.get_all("Host") or []):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        else:
            return True
        return False

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        try:
            answer = page()
        except Exception:
            logger.exception("Answering %s failed", self.path)
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """HttpAnswer with an error, without a word of what was asked."""
        self.close_connection = True
        super().send_error(code, HTTPStatus(code).phrase)

    def end_headers(self) -> None:
        """Say which method is allowed, where another one was used."""
        if self._allow:
            self._allow = False
            self.send_header("Allow", "GET")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a probe comes every few seconds."""


class _Bounded(io.RawIOBase):
    """The first bytes of a stream, and then its end."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._left = stream, most

    @property
    def is_spent(self) -> bool:
        """Whether there may have been more."""
        return self._left <= 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read1(min(len(buffer), self._left)) if self._left else b""
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


def _listen(address: HttpAddress, pages: Mapping[str, Callable[[], HttpAnswer]]) -> _Server:
    server = _Server(address, pages)
    _listening.add(server)
    return server


def _remove_stale(path: str) -> None:
    """Remove a unix socket that nobody listens on any more.

    Raises:
        OSError: Somebody does, or it is something else.
    """
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "there is a file of this name that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _close_in_child() -> None:
    # Else a pool child that outlives its parent would keep the address, and answer nothing.
    for server in list(_listening):
        with contextlib.suppress(OSError):
            server.socket.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
