"""The HTTP server of a process: bounded, for GET alone, at its address or trying to be."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from celery_safe_leader._runtime.service import http_server
from celery_safe_leader._runtime.service.http_address import HttpAddress, parse_address
from celery_safe_leader._runtime.service.http_server import HttpAnswer, HttpServer
from celery_safe_leader.errors import ConfigurationError
from tests.support.network.ports import free_port
from tests.support.processes import wait_until

Start = Callable[..., HttpServer]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[HttpServer] = []

    def start(address: str = "", **pages: Callable[[], HttpAnswer]) -> HttpServer:
        parsed = parse_address(address or f"127.0.0.1:{free_port()}").for_process("beat")
        said = {f"/{name}": page for name, page in pages.items()}
        said.setdefault("/ok", lambda: HttpAnswer.of(HTTPStatus.OK, {"ok": True}))
        server = HttpServer(parsed, said)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.close()


def listening(server: HttpServer) -> HttpServer:
    wait_until(lambda: server.is_listening, 30, "the address")
    return server


def connect(server: HttpServer) -> socket.socket:
    address = server.address
    if address.path:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(address.path)
        return client
    return socket.create_connection((address.host, address.port), timeout=30)


def ask(server: HttpServer, text: str) -> tuple[int, str]:
    """Send the text; return the status and all that came."""
    with connect(server) as client:
        client.sendall(text.encode())
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65_536):
                data += piece
    # Who speaks no HTTP is answered as before there were status lines.
    code = re.match(rb"(?:HTTP/\S+ )?(\d{3}) ", data)
    return (int(code[1]) if code else 0), data.decode()


def get(path: str = "/ok", host: str = "127.0.0.1", method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"


def test_a_get_is_answered(start: Start) -> None:
    server = listening(start())
    code, text = ask(server, get())
    assert (code, json.loads(text.partition("\r\n\r\n")[2])) == (200, {"ok": True})
    assert "Cache-Control: no-store" in text
    assert ask(server, get("/ok?verbose"))[0] == 200
    assert ask(server, get("/else"))[0] == 404


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_but_get(start: Start, method: str) -> None:
    code, text = ask(listening(start()), get(method=method))
    assert (code, "\r\nAllow: GET\r\n" in text) == (405, True)


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:9808", 200),
        ("[::1]:9808", 200),
        ("10.0.0.7", 200),
        ("localhost", 200),
        ("beat:9808", 200),
        (socket.gethostname(), 200),
        ("beat.shop.svc", 200),
        ("evil.example.com", 421),
        ("127.0.0.1.evil.com", 421),
        ("", 421),
        ("a\r\nHost: b", 421),
    ],
)
def test_a_page_of_another_site_gets_no_answer(start: Start, host: str, code: int) -> None:
    assert ask(listening(start()), get(host=host))[0] == code


def test_no_host_is_refused_but_not_over_a_unix_socket(start: Start, tmp_path: Path) -> None:
    text = "GET /ok HTTP/1.0\r\n\r\n"
    assert ask(listening(start()), text)[0] == 421
    assert ask(listening(start(str(tmp_path / "a.sock"))), text)[0] == 200


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("nonsense\r\n\r\n", 400),
        ("GET " + "/" * 20_000 + " HTTP/1.1\r\n\r\n", 431),
        ("GET /ok HTTP/1.1\r\nHost: a\r\nX: " + "y" * 20_000 + "\r\n\r\n", 431),
        ("GET /ok HTTP/1.1\r\n" + "X: y\r\n" * 3_000 + "\r\n", 431),
    ],
)
def test_reads_are_bounded(start: Start, text: str, code: int) -> None:
    assert ask(listening(start()), text)[0] in (code, 0)
    assert "nonsense" not in ask(listening(start()), text)[1]


def test_a_page_that_fails_is_an_error_and_nothing_more(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> HttpAnswer:
        raise ValueError("a secret")

    server = listening(start(broken=broken))
    code, text = ask(server, get("/broken"))
    assert (code, "secret" in text) == (500, False)
    assert ask(server, get())[0] == 200


def test_sixteen_at_a_time_and_nobody_for_long(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half requests hold their places until they are cut off; then others are answered."""
    monkeypatch.setattr(http_server, "_LONGEST", 1.0)
    before = threading.active_count()
    server = listening(start())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(60)]
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"GET /ok HT")
        assert threading.active_count() <= before + 1 + 16
        wait_until(lambda: ask(server, get())[0] == 200, 60, "a free place")


def test_an_address_in_use_is_an_error_and_tried_again(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_TRY_AGAIN", 0.02)
    first = listening(start())
    second = start(f"{first.address.host}:{first.address.port}")
    wait_until(lambda: "Address already in use" in caplog.text, 30)
    assert caplog.text.count("cannot be answered at") == 1
    first.close()
    listening(second)
    assert ask(second, get())[0] == 200


def test_a_unix_socket_is_the_users_alone_and_goes_with_the_server(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "_TRY_AGAIN", 0.02)
    path = tmp_path / f"{socket.gethostname()}-beat-{os.getpid()}"
    # What one that was killed has left.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = listening(start(f"unix:{tmp_path}/%h-%r-%p"))
    assert server.address.path == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ask(server, get())[0] == 200
    second = start(str(path))
    wait_until(lambda: "another process listens there" in caplog.text, 30)
    server.close()
    assert ask(listening(second), get())[0] == 200
    file = tmp_path / "file"
    file.write_text("mine")
    start(str(file))
    wait_until(lambda: "is not a socket" in caplog.text, 30)
    assert file.read_text() == "mine"


def test_a_forked_child_closes_the_socket_first(start: Start) -> None:
    server = listening(start())
    reader, writer = os.pipe()
    inner = server._server
    assert inner is not None
    pid = os.fork()
    if not pid:
        os.write(writer, b"closed" if inner.socket.fileno() < 0 else b"open")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 10) == b"closed"
    os.close(reader)
    os.close(writer)
    assert ask(server, get())[0] == 200


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("127.0.0.1:9808", HttpAddress("127.0.0.1", 9808)),
        ("[::1]:9808", HttpAddress("::1", 9808)),
        ("0.0.0.0:80", HttpAddress("0.0.0.0", 80)),  # noqa: S104
        ("/run/%r.sock", HttpAddress(path="/run/%r.sock")),
        ("unix:/run/100%%-%p", HttpAddress(path="/run/100%%-%p")),
    ],
)
def test_addresses(given: str, meant: HttpAddress) -> None:
    assert parse_address(given) == meant


def test_placeholders() -> None:
    filled = HttpAddress(path="/%h/%r%%p-%p").for_process("worker")
    assert filled.path == f"/{socket.gethostname()}/worker%p-{os.getpid()}"


@pytest.mark.parametrize(
    "given",
    [
        *("", "9808", ":9808", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536"),
        *("::1:9808", "http://127.0.0.1:9808", "user@host:80", "host:8 0", "/run/%x.sock"),
        *("/run/%", "relative.sock", "/run/", "/" + "x" * 200, "/a\nb", 9808, None, True),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(given: object) -> None:
    with pytest.raises(ConfigurationError, match=r"http is .*'HOST:PORT'"):
        parse_address(given)
