"""What systemd is told, over a socket of its protocol."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_safe_leader._runtime.service.systemd import ServiceNotifier
from tests.support.processes import wait_until


class Manager:
    """Takes notifications, as systemd does."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def read(self) -> list[str]:
        try:
            while True:
                self.messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return self.messages

    def wait_for(self, text: str, count: int = 1) -> None:
        wait_until(lambda: self.read().count(text) >= count, 30, lambda: str(self.messages))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    name = f"@leader-{uuid.uuid4().hex}" if request.param == "abstract" else str(tmp_path / "n")
    manager = Manager(name)
    yield manager
    manager.close()


class Process:
    """A process whose loop turns, until it does not."""

    turns = True
    status = "shop:beat: stands by"

    def notifier(self, **environ: str) -> ServiceNotifier:
        return ServiceNotifier(lambda: self.turns, lambda: self.status, environ)


def test_ready_status_watchdog_and_the_end(manager: Manager) -> None:
    process = Process()
    notifier = process.notifier(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="20000")
    notifier.start()
    notifier.start()
    manager.wait_for("WATCHDOG=1", 3)
    process.status = "shop:beat: leads\n(token 7)"
    manager.wait_for("STATUS=shop:beat: leads (token 7)")
    notifier.close()
    manager.wait_for("STOPPING=1")
    assert manager.messages[0] == "READY=1\nSTATUS=shop:beat: stands by"
    assert manager.messages.count("READY=1\nSTATUS=shop:beat: stands by") == 1


def test_no_sign_of_life_while_the_loop_stands(manager: Manager) -> None:
    process = Process()
    notifier = process.notifier(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="20000")
    notifier.start()
    manager.wait_for("WATCHDOG=1", 2)
    process.turns = False
    time.sleep(0.1)  # one may be on its way
    count = manager.read().count("WATCHDOG=1")
    for number in range(5):
        process.status = f"number {number}"
        manager.wait_for(f"STATUS=number {number}")  # its thread goes on
    assert manager.messages.count("WATCHDOG=1") == count
    process.turns = True
    manager.wait_for("WATCHDOG=1", count + 1)
    notifier.close()


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": "1"}]
)
def test_who_is_not_watched_sends_no_signs_of_life(
    manager: Manager, environ: dict[str, str]
) -> None:
    process = Process()
    notifier = process.notifier(NOTIFY_SOCKET=manager.address, **environ)
    notifier.start()
    process.status = "later"
    manager.wait_for("STATUS=later")
    assert "WATCHDOG=1" not in manager.messages
    notifier.close()


def test_the_one_that_is_meant_is_watched(manager: Manager) -> None:
    environ = {"WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Process().notifier(NOTIFY_SOCKET=manager.address, **environ)
    notifier.start()
    manager.wait_for("WATCHDOG=1")
    notifier.close()


def test_without_systemd_there_is_no_thread() -> None:
    notifier = Process().notifier(WATCHDOG_USEC="20000")
    notifier.start()
    assert not notifier.is_wanted
    assert notifier._thread is None
    notifier.close()


@pytest.mark.parametrize("address", ["/nowhere/at/all", "vsock:2:1234", "@" + "x" * 300, "/a\0b"])
def test_a_socket_that_is_none_is_said_once(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Process().notifier(NOTIFY_SOCKET=address, WATCHDOG_USEC="20000")
    notifier.start()
    wait_until(lambda: "systemd cannot be notified" in caplog.text, 30)
    notifier.close()
    assert caplog.text.count("systemd cannot be notified") == 1
