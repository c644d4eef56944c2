"""A leader's client whose requests and replies are lost, or come late, where a test says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

__all__ = ["FAULTS", "FaultyClient", "Late"]

FAULTS = ("request", "reply", "late", "cut")
"""What may happen to the next request: it is lost; it is executed, and its reply is lost; its
sender gives up, and it is executed at some later time; of several commands in one write only the
first is executed, and all replies are lost."""

Command = Sequence[Any]
Late = list[Command]
"""Commands whose sender has given up, and which the server has yet to execute."""


class FaultyClient:
    """As much of a client as a ledger uses.

    Args:
        client: Of the real server.
        late: Receives what is executed later.
    """

    def __init__(self, client: redis.Redis, late: Late) -> None:
        self._client: Any = client
        self._late = late
        self.connection_pool = _Pool(self)
        self.fault = ""
        """Of the next request: one of ``FAULTS``."""

    def execute_command(self, *args: Any) -> Any:
        fault = self._take_fault()
        if fault in ("request", "late"):
            self._late += [args] * (fault == "late")
            raise redis.TimeoutError(f"{fault}: no reply")
        result = self._client.execute_command(*args)
        if fault:
            raise redis.TimeoutError(f"{fault}: no reply")
        return result

    def hscan(self, *args: Any, **options: Any) -> Any:
        return self._client.hscan(*args, **options)

    def hmget(self, *args: Any) -> Any:
        return self._client.hmget(*args)

    def hget(self, *args: Any) -> Any:
        return self._client.hget(*args)

    def _take_fault(self) -> str:
        fault, self.fault = self.fault, ""
        return fault

    def send(self, commands: Sequence[Command]) -> list[Any]:
        """Execute commands that go in one write; what is not answered has no reply."""
        fault = self._take_fault()
        if fault == "late":
            self._late += commands
        executed = {"request": 0, "late": 0, "cut": 1}.get(fault, len(commands))
        pipeline = self._client.pipeline(transaction=False)
        for command in commands[:executed]:
            pipeline.execute_command(*command)
        replies: list[Any] = pipeline.execute(raise_on_error=False) if executed else []
        # Without the script it is sent again at once, so that has the fault.
        if fault and any(isinstance(each, redis.exceptions.NoScriptError) for each in replies):
            self.fault = fault
            return replies
        return [] if fault else replies


class _Pool:
    """A pool of one connection."""

    def __init__(self, client: FaultyClient) -> None:
        self.connection_kwargs: dict[str, Any] = {}
        self._connection = _Connection(client)

    def get_connection(self, *_: str) -> _Connection:
        return self._connection

    def release(self, _: object) -> None:
        pass


class _Connection:
    def __init__(self, client: FaultyClient) -> None:
        self._client = client
        self._replies: list[Any] = []
        self.encoder = redis.Redis().connection_pool.get_encoder()

    def send_packed_command(self, pieces: Sequence[bytes]) -> None:
        self._replies = self._client.send(_unpacked(b"".join(pieces)))

    def read_response(self) -> Any:
        if not self._replies:
            raise redis.TimeoutError("no reply")
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def disconnect(self) -> None:
        self._replies = []


def _unpacked(data: bytes) -> list[Command]:
    """Return the commands that are written in Redis's protocol."""
    commands: list[Command] = []
    position = 0

    def number() -> int:
        nonlocal position
        end = data.index(b"\r\n", position)
        found = int(data[position + 1 : end])
        position = end + 2
        return found

    while position < len(data):
        command = []
        for _ in range(number()):
            size = number()
            command.append(data[position : position + size])
            position += size + 2
        commands.append(command)
    return commands
