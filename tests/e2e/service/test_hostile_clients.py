"""Clients of the health checks that mean no good: a beat publishes each run all the same."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.service.test_health import ask, wait_for
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import Beat, write_app
from tests.support.network.ports import free_port
from tests.support.processes import Children, wait_until
from tests.support.servers import Server

SCHEDULE = repr({f"e{n}": {"task": "shop.work", "schedule": 0.5} for n in range(20)})
SAID = (
    b"",
    b"G",
    b"GET /livez HTTP/1.1\r\n",
    b"GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 100_000,
    b"POST /leader HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01" * 100,
)
CONNECTIONS = 1_000


class Crowd:
    """Opens a thousand connections at a time, says something on each, and holds them."""

    def __init__(self, port: int) -> None:
        self.opened = 0
        self._port, self._over = port, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            with contextlib.ExitStack() as stack:
                for number in range(CONNECTIONS):
                    if self._over.is_set():
                        return
                    with contextlib.suppress(OSError):
                        client = socket.create_connection(("127.0.0.1", self._port), timeout=2)
                        stack.enter_context(client)
                        self.opened += 1
                        client.sendall(SAID[number % len(SAID)])

    def close(self) -> None:
        self._over.set()
        self._thread.join(30)


@pytest.mark.long
def test_no_run_waits_for_them(children: Children, tmp_path: Path, valkey_server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4 * CONNECTIONS)), hard))
    port = free_port()
    leave_resigned(valkey_server.url, "shop", "beat")
    write_app(tmp_path, valkey_server.url, SCHEDULE, leader_http=f"127.0.0.1:{port}")
    beat = Beat(children, tmp_path)
    wait_for(port, "/leader", 200)
    client: Any = valkey_server.client()
    threads = len(list(Path(f"/proc/{beat.pid}/task").iterdir()))
    crowd, most = Crowd(port), 0
    before = client.llen("celery")

    def has_gone_on() -> bool:
        nonlocal most
        most = max(most, len(list(Path(f"/proc/{beat.pid}/task").iterdir())))
        return bool(client.llen("celery") >= before + 300 and crowd.opened > 2 * CONNECTIONS)

    try:
        wait_until(has_gone_on, 120, lambda: f"{client.llen('celery')}, {crowd.opened}")
    finally:
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most <= threads + 17
    wait_for(port, "/livez", 200)
    assert ask(port, "/leader")[0] == 200
    sent = [json.loads(raw)["headers"]["leader_covers"] for raw in client.lrange("celery", 0, -1)]
    # None was late by as much as the pause between two: then one message would stand for several.
    assert [each for each in sent if len(set(each.split(","))) > 1] == []
    assert "Traceback" not in beat.child.output
