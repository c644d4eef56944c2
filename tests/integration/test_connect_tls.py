"""TLS: what is verified, on the wire. A relay speaks TLS, since not every server is built to."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from celery_safe_leader._store.connect import connect, connect_async
from tests.support.servers import Server

LIMITS: dict[str, Any] = {"connect_timeout": 5.0, "read_timeout": 5.0}
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])


def ping(source: Any, *, asynchronous: bool, options: Any = None) -> bool:
    """Send one command on a client made from ``source``, and close the client."""
    if not asynchronous:
        with connect(source, options, **LIMITS) as client:
            return bool(client.ping())

    async def run() -> bool:
        async with connect_async(source, options, **LIMITS) as client:
            return bool(await client.ping())

    return asyncio.run(run())


class TlsRelay:
    """Speaks TLS on ``port``, and plain text to a server, in a thread of its own."""

    def __init__(self, target: tuple[str, int], certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> int:
        self._thread.start()
        listening = asyncio.start_server(self._relay, "localhost", 0, ssl=self._context, family=2)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(10)
        return int(self._server.sockets[0].getsockname()[1])

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection(*self._target)
        try:
            await asyncio.gather(_pump(reader, back_writer), _pump(back_reader, writer))
        finally:
            back_writer.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA (``ca.crt``) and a certificate by it, for ``localhost`` only."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {new_key} -subj /CN=ca -days 2 -keyout ca.key -out ca.crt",
        f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile names -out server.crt",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=30
        )
    return folder


@pytest.fixture
def tls_port(certificates: Path, valkey_server: Server) -> Iterator[int]:
    """The port at which a server speaks TLS."""
    target = (valkey_server.host, valkey_server.port)
    with TlsRelay(target, certificates / "server.crt", certificates / "server.key") as port:
        yield port


@both
def test_tls_with_the_right_ca(asynchronous: bool, tls_port: int, certificates: Path) -> None:
    url = f"rediss://localhost:{tls_port}?ssl_ca_certs={certificates / 'ca.crt'}"
    assert ping(url, asynchronous=asynchronous)


@both
@pytest.mark.parametrize("theirs", [redis.Redis, redis.asyncio.Redis])
def test_tls_is_copied_from_a_callers_client(
    asynchronous: bool, theirs: Any, tls_port: int, certificates: Path
) -> None:
    ca = str(certificates / "ca.crt")
    client = theirs(host="localhost", port=tls_port, ssl=True, ssl_ca_certs=ca)
    assert ping(client, asynchronous=asynchronous)


@both
@pytest.mark.parametrize(
    ("host", "trusted"), [("localhost", False), ("127.0.0.1", True)], ids=["ca", "name"]
)
def test_tls_refuses_what_it_cannot_verify(
    asynchronous: bool, host: str, trusted: bool, tls_port: int, certificates: Path
) -> None:
    query = f"?ssl_ca_certs={certificates / 'ca.crt'}" if trusted else ""
    with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        ping(f"rediss://{host}:{tls_port}{query}", asynchronous=asynchronous)


class NamingSentinel:
    """Answers every question with an address, as a Sentinel does, on a port of its own."""

    def __init__(self, address: tuple[str, int]) -> None:
        host, port = address[0], str(address[1])
        self._reply = f"*2\r\n${len(host)}\r\n{host}\r\n${len(port)}\r\n{port}\r\n".encode()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65_536):
                    connection.sendall(self._reply * data.count(b"SENTINEL"))

    def __enter__(self) -> tuple[str, int]:
        self._thread.start()
        host, port = self._listening.getsockname()
        return str(host), int(port)

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@both
def test_tls_to_sentinels_and_to_the_master_are_two_things(
    asynchronous: bool, tls_port: int, certificates: Path
) -> None:
    ca = {"ssl": True, "ssl_ca_certs": str(certificates / "ca.crt")}
    files = certificates / "server.crt", certificates / "server.key"
    with (
        NamingSentinel(("localhost", tls_port)) as sentinel,
        TlsRelay(sentinel, *files) as sentinel_port,
    ):
        url = f"sentinel://localhost:{sentinel_port}"
        both_ways = {"master_name": "m", "sentinel_kwargs": ca, **ca}
        assert ping(url, asynchronous=asynchronous, options=both_ways)
        for untrusting in ({**both_ways, "sentinel_kwargs": {"ssl": True}},
                           {"master_name": "m", "sentinel_kwargs": ca, "ssl": True}):  # fmt: skip
            with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
                ping(url, asynchronous=asynchronous, options=untrusting)


@both
def test_tls_unverified_only_when_told(
    asynchronous: bool, tls_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"rediss://127.0.0.1:{tls_port}?ssl_cert_reqs=none"
    assert ping(url, asynchronous=asynchronous)
    assert "does not verify anything" in caplog.text
