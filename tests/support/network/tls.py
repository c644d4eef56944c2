"""TLS before a server, and certificates for it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from pathlib import Path

__all__ = ["TlsRelay", "make_certificates"]


class TlsRelay:
    """Speaks TLS on ``port``, and plain text to a server, in a thread of its own.

    With ``clients`` it demands a certificate by that CA.
    """

    def __init__(
        self, target: tuple[str, int], certificate: Path, key: Path, clients: Path | None = None
    ) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if clients is not None:
            self._context.load_verify_locations(clients)
            self._context.verify_mode = ssl.CERT_REQUIRED
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


def make_certificates(folder: Path) -> None:
    """Make a CA (``ca.crt``) and certificates by it: for ``localhost`` only, and for a client.

    The client's key is there with a password (``client.key``, ``hush-hush``) and without
    (``open.key``).
    """
    # What Python from 3.13 on demands of certificates.
    issuer = "authorityKeyIdentifier=keyid,issuer\nsubjectKeyIdentifier=hash\n"
    (folder / "names").write_text(f"{issuer}subjectAltName=DNS:localhost\n")
    (folder / "issuer").write_text(issuer)
    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for command in (
        f"req -x509 {new_key} -subj /CN=ca -days 2 -keyout ca.key -out ca.crt "
        "-addext keyUsage=critical,keyCertSign,cRLSign",
        f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile names -out server.crt",
        "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -aes256 "
        "-pass pass:hush-hush -out client.key",
        "pkey -in client.key -passin pass:hush-hush -out open.key",
        "req -new -key client.key -passin pass:hush-hush -subj /CN=client -out client.csr",
        "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 "
        "-extfile issuer -out client.crt",
    ):
        subprocess.run(
            ["openssl", *command.split()], cwd=folder, check=True, capture_output=True, timeout=30
        )
