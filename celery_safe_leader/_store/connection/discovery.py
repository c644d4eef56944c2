"""Who knows where a server is, and how they are asked.

A *finder* knows whom to ask what: Sentinels, or nodes of a cluster. It does no IO, so that blocking
and asyncio connections share it. A *guide* asks its questions, in a limited time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, Protocol

import redis

from celery_safe_leader._store.connection.urls import Address, show_address

__all__ = ["Finder", "Guide", "InTurn", "Question"]

_PARTS = 5
"""Into how many parts a guide divides its time: one is the limit of a connect or a reply.

Two of three that are silent leave enough of it to ask the third."""


class Question(NamedTuple):
    """What a finder wants to know of whom."""

    address: Address
    command: tuple[str | int, ...]


class Finder(Protocol):
    """Finds a server. Does no IO: its questions are asked for it."""

    told_by_servers: bool
    """Whether a server that is the wrong one says so; else it has to be asked for now and then."""

    def search(self) -> Generator[Question, Any, Address]:
        """Yield questions, take their replies or errors, and return the address.

        Raises:
            redis.ConnectionError: Nobody knows.
        """

    def distrust(self) -> None:
        """Take in that what was found is of no use: whoever named it is asked last from now on."""

    def redirect(self, address: Address) -> None:
        """Take in that the server itself named another."""


class InTurn:
    """Asks one after the other, first the one that told the truth last."""

    nobody = ""
    """What is said once all were asked in vain."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        """Begin with the order that is given."""
        self._asked = list(addresses)

    def search(self) -> Generator[Question, Any, Address]:
        """Ask until one knows."""
        failures: list[tuple[Address, Exception]] = []
        for address in list(self._asked):
            try:
                return (yield from self._ask(address))
            except (redis.RedisError, OSError, TypeError, ValueError, IndexError) as exc:
                failures.append((address, exc))
                self._ask_last(address)
        told = "; ".join(f"{show_address(address)}: {why}" for address, why in failures)
        raise redis.ConnectionError(f"{self.nobody}: {told}")

    def _ask(self, address: Address) -> Generator[Question, Any, Address]:
        """Ask one; an error of redis-py's, or a reply of another shape, leads to the next."""
        raise NotImplementedError

    def _ask_last(self, address: Address) -> None:
        self._asked = [each for each in self._asked if each != address] + [address]

    def distrust(self) -> None:
        """Ask the one last that named a server which is none, or is a replica."""
        self._ask_last(self._asked[0])


class Guide:
    """A finder, and how its questions are asked: on a new connection each, which is rare enough.

    Args:
        finder: Knows whom to ask what.
        connection_class: Of redis-py.
        arguments: What a connection to those who are asked is made with.
        limit: Seconds for a whole search.
    """

    def __init__(
        self, finder: Finder, connection_class: type[Any], arguments: dict[str, Any], limit: float
    ) -> None:
        self.finder = finder
        self._connection_class = connection_class
        part = limit / _PARTS
        timeouts = {"socket_connect_timeout": part, "socket_timeout": part}
        self._arguments = {**arguments, **timeouts}
        # A question that is just asked may take a part for connecting and a part for the reply.
        self._latest = limit - 2 * part
        self._interval = limit
        self._next_check = 0.0

    def due(self) -> bool:
        """Tell, once in a while, that it is time to ask whether the server is still the right one.

        Where Sentinels are told to fail over, the old master stays one for some seconds, and
        keeps its clients, though nothing that they write there will last.
        """
        return not self.finder.told_by_servers and time.monotonic() >= self._next_check

    def check(self) -> Address | None:
        """Ask one alone, briefly; ``None`` if it does not know, which says nothing."""
        try:
            return self._find(latest=0.0)
        except (redis.RedisError, OSError):
            return None

    async def check_async(self) -> Address | None:
        """Do as :meth:`check`."""
        try:
            return await self._find_async(latest=0.0)
        except (redis.RedisError, OSError):
            return None

    def find(self) -> Address:
        """Search, and block meanwhile."""
        return self._find(self._latest)

    async def find_async(self) -> Address:
        """Search."""
        return await self._find_async(self._latest)

    def _find(self, latest: float) -> Address:
        with contextlib.closing(self._questions(latest)) as questions:
            outcome: Any = None
            while True:
                try:
                    question = questions.send(outcome)
                except StopIteration as found:
                    return _address(found.value)
                outcome = self._ask(question)

    async def _find_async(self, latest: float) -> Address:
        with contextlib.closing(self._questions(latest)) as questions:
            outcome: Any = None
            while True:
                try:
                    question = questions.send(outcome)
                except StopIteration as found:
                    return _address(found.value)
                outcome = await self._ask_async(question)

    def _questions(self, latest: float) -> Generator[Question, Any, Address]:
        """Turn outcomes into what a finder expects; after ``latest`` seconds ask nobody else."""
        began = time.monotonic()
        self._next_check = began + self._interval
        search = self.finder.search()
        try:
            question = next(search)
            while True:
                outcome = yield question
                failed = isinstance(outcome, Exception)
                if failed and time.monotonic() - began > latest:
                    self.finder.distrust()
                    raise redis.TimeoutError(f"{outcome}; no time is left to ask another")
                question = search.throw(outcome) if failed else search.send(outcome)
        except StopIteration as found:
            address: Address = found.value
            return address

    def _connection(self, address: Address) -> Any:
        host, port = address
        return self._connection_class(**{**self._arguments, "host": host, "port": port})

    def _ask(self, question: Question) -> Any:
        connection = self._connection(question.address)
        try:
            connection.connect()
            connection.send_command(*question.command)
            return connection.read_response()
        except (redis.RedisError, OSError) as exc:
            return exc
        finally:
            connection.disconnect()

    async def _ask_async(self, question: Question) -> Any:
        connection = self._connection(question.address)
        try:
            await connection.connect()
            await connection.send_command(*question.command)
            return await connection.read_response()
        except (redis.RedisError, OSError) as exc:
            return exc
        finally:
            await connection.disconnect(nowait=True)


def _address(value: Any) -> Address:
    host, port = value
    return str(host), int(port)
