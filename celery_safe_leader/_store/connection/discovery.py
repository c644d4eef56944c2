"""Looks up the address of a server.

A *finder* knows whom to ask what: Sentinels, or nodes of a cluster. It does no IO, so blocking and
asyncio connections share it. A *locator* does the IO: it asks a finder's questions within a time
limit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, Protocol

import redis

from celery_safe_leader._store.connection.urls import Address, show_address

__all__ = ["Finder", "Locator", "Question", "SequentialFinder"]

_PARTS = 5
"""A locator's time limit is divided by this: one part is the limit of a connect or a reply.

If two of three do not answer, enough time is left to ask the third."""


class Question(NamedTuple):
    """A command that a finder wants to have sent, and where to."""

    address: Address
    command: tuple[str | int, ...]


class Finder(Protocol):
    """Finds a server. Does no IO: its questions are asked on its behalf."""

    wrong_server_says_so: bool
    """Whether the wrong server says that it is; otherwise the address must be checked regularly."""

    def search(self) -> Generator[Question, Any, Address]:
        """Yield questions, receive their replies or errors, and return the address.

        Raises:
            redis.ConnectionError: Nobody knows.
        """

    def distrust(self) -> None:
        """Note that the address found was wrong: who named it is asked last from now on."""

    def redirect(self, address: Address) -> None:
        """Note that the server itself named another."""


class SequentialFinder:
    """Asks one address after the other, starting with the one that answered right last."""

    nobody_knew = ""
    """Error message for when nobody knew."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._asked = list(addresses)

    def search(self) -> Generator[Question, Any, Address]:
        """Ask until one knows the address."""
        failures: list[tuple[Address, Exception]] = []
        for address in list(self._asked):
            try:
                return (yield from self._ask(address))
            except (redis.RedisError, OSError, TypeError, ValueError, IndexError) as exc:
                failures.append((address, exc))
                self._ask_last(address)
        details = "; ".join(f"{show_address(address)}: {why}" for address, why in failures)
        raise redis.ConnectionError(f"{self.nobody_knew}: {details}")

    def _ask(self, address: Address) -> Generator[Question, Any, Address]:
        """Ask one; after an error of redis-py, or a malformed reply, the next is asked."""
        raise NotImplementedError

    def _ask_last(self, address: Address) -> None:
        self._asked = [each for each in self._asked if each != address] + [address]

    def distrust(self) -> None:
        """Ask the one last that named a dead server or a replica."""
        self._ask_last(self._asked[0])


class Locator:
    """Runs a finder, with a new connection for each question, which is rare enough.

    Args:
        finder: Knows whom to ask what.
        connection_class: Of redis-py.
        arguments: What connections for the questions are made with.
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
        # The last question may take one part for connecting and one for the reply.
        self._latest = limit - 2 * part
        self._interval = limit
        self._next_check = 0.0

    def due(self) -> bool:
        """Return whether it is time to check that the server is still the right one.

        When Sentinels are told to fail over, the old master stays a master for some seconds and
        keeps its clients, though nothing that they write there will last.
        """
        return not self.finder.wrong_server_says_so and time.monotonic() >= self._next_check

    def check(self) -> Address | None:
        """Ask only one, briefly; return ``None`` if it does not know, which proves nothing."""
        try:
            return self._find(latest=0.0)
        except (redis.RedisError, OSError):
            return None

    async def check_async(self) -> Address | None:
        """Do what :meth:`check` does, for asyncio."""
        try:
            return await self._find_async(latest=0.0)
        except (redis.RedisError, OSError):
            return None

    def find(self) -> Address:
        """Return the address of the server. Blocks."""
        return self._find(self._latest)

    async def find_async(self) -> Address:
        """Do what :meth:`find` does, for asyncio."""
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
        """Run the finder's search; after ``latest`` seconds, ask nobody else."""
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
