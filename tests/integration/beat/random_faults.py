"""A clock that stands still between two steps, and connections that fail on order."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from celery_safe_leader._dispatch.health.clock_watch import ClockWatch

__all__ = ["StandingClock", "Wire", "WireFault"]

_TIMED = (
    "celery_safe_leader._dispatch.dispatcher",
    "celery_safe_leader._dispatch.records",
    "celery_safe_leader._dispatch.rounds",
    "celery_safe_leader._dispatch.unsettled",
    "celery_safe_leader._dispatch.ways.way_choice",
    "celery_safe_leader._publishing.broker_session",
)
_DATED = "celery_safe_leader._dispatch."
"""Modules that begin so, and name ``now_us``."""


class StandingClock:
    """Time for the pipeline, of which only a test lets some pass, or who sleeps.

    Args:
        start: Seconds since 1970. It has to be behind Redis's clock all the time.
    """

    def __init__(self, start: float) -> None:
        self.us = round(start * 1e6)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the pipeline see this clock instead of the machine's."""
        shim = types.SimpleNamespace(monotonic=self.monotonic, sleep=self.sleep)
        for module in _TIMED:
            monkeypatch.setattr(f"{module}.time", shim)
        # By rule: one that is forgotten would see another time than the rest.
        dated = [name for name in sys.modules if name.startswith(_DATED)]
        for module in dated:
            if hasattr(sys.modules[module], "now_us"):
                monkeypatch.setattr(f"{module}.now_us", lambda: self.us)
        # It is hours behind Redis's, and that is no fault here. Nobody sets it either.
        monkeypatch.setattr("celery_safe_leader._beat.pipeline.SLACK", 86_400.0)
        monkeypatch.setattr(ClockWatch, "has_jumped", lambda self, wall, monotonic: False)

    def monotonic(self) -> float:
        """Return seconds. Each question takes a little, so a loop that waits ends."""
        self.us += 20
        return self.us / 1e6

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.us += max(1, round(seconds * 1e6))


@dataclass
class WireFault:
    """What becomes of the requests over one line."""

    kind: str
    """``lost``: none arrives. ``late``: it arrives when the test says so. ``no reply``: it is
    executed. ``half``: the first of its commands alone is executed, without a reply. ``one
    reply``: all are executed, and the first is answered."""
    match: bytes = b""
    """Part of the requests that it is about."""
    skip: int = 0
    """How many of these pass before."""
    times: int = 1
    """How many of these fail."""


class Wire:
    """The lines to Redis by the names of the host that they were given: each has its own faults."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.faults: dict[str, WireFault] = {}
        self.late: list[tuple[int, bytes]] = []
        """Requests under way: number of the database, and the bytes."""

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be in the way of every connection of redis-py."""
        send, read = redis.Connection.send_packed_command, redis.Connection.read_response

        def send_packed_command(connection: Any, command: Any, check_health: bool = True) -> None:
            fault = self._fault(connection, command)
            if fault is None:
                return send(connection, command, check_health)
            return self._fail(fault, connection, command, send)

        def read_response(connection: Any, *args: Any, **kwargs: Any) -> Any:
            left = connection.__dict__.pop("replies_left", None)
            reply = read(connection, *args, **kwargs)
            if left == 0:
                connection.disconnect()
                raise redis.ConnectionError("the reply was lost")
            if left is not None:
                connection.replies_left = left - 1
            return reply

        monkeypatch.setattr(redis.Connection, "send_packed_command", send_packed_command)
        monkeypatch.setattr(redis.Connection, "read_response", read_response)

    def _fault(self, connection: Any, command: Any) -> WireFault | None:
        fault = self.faults.get(connection.host)
        if fault is None or fault.match not in _joined(command):
            return None
        if fault.skip > 0:
            fault.skip -= 1
            return None
        fault.times -= 1
        if fault.times <= 0:
            del self.faults[connection.host]
        return fault

    def _fail(
        self, fault: WireFault, connection: Any, command: Any, send: Callable[..., None]
    ) -> None:
        if fault.kind in ("no reply", "one reply"):
            send(connection, command)
            connection.replies_left = 0 if fault.kind == "no reply" else 1
            return
        if fault.kind != "lost" and connection._sock is not None:
            data = _joined(command)
            first = data[: _first_command(data)]
            if fault.kind == "half":
                self._deliver(connection.db, first)
            else:
                self.late.append((connection.db, data))
        connection.disconnect()
        raise redis.TimeoutError("no answer in time")

    def deliver_late(self, number: int = 0) -> None:
        """Let a request arrive that is under way, after its sender has given it up."""
        self._deliver(*self.late.pop(number))

    def _deliver(self, db: int, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 10) as line:
            line.sendall(b"*2\r\n$6\r\nSELECT\r\n$1\r\n%d\r\n" % db + data)
            line.shutdown(socket.SHUT_WR)
            while line.recv(65536):
                pass

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let nothing fail in between."""
        faults, self.faults = self.faults, {}
        try:
            yield
        finally:
            self.faults = faults


def _joined(command: Any) -> bytes:
    parts = [command] if isinstance(command, (str, bytes)) else command
    return b"".join(part.encode() if isinstance(part, str) else bytes(part) for part in parts)


def _first_command(data: bytes) -> int:
    """Return where the first command of a request ends."""
    end = data.index(b"\r\n") + 2
    for _ in range(int(data[1 : end - 2])):
        line = data.index(b"\r\n", end)
        end = line + 2 + int(data[end + 1 : line]) + 2
    return end
