"""Connections that look up their server, and that leave it once it is the wrong one.

They also say their name themselves, after redis-py has connected: it only serves people, and a
server or proxy that refuses ``CLIENT`` must not cost the connection.

They override one private part of redis-py's connections: ``_connect()``, which opens the socket
and nothing else, on both the blocking and the asyncio side, as read in 5.0, 6.4, 7.1 and 8.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis

from celery_safe_leader._store.connection.discovery import Finder, Locator, Question
from celery_safe_leader._store.connection.urls import Address

__all__ = ["Naming", "failover_class", "is_ask", "resend_after_ask", "resend_after_ask_async"]

if TYPE_CHECKING:

    class _RedisConnection:
        """What is used of redis-py's connections; on the asyncio side these are coroutines."""

        host: str
        port: int

        def send_command(self, *args: Any, **kwargs: Any) -> Any: ...
        def connect(self, *args: Any, **kwargs: Any) -> Any: ...
        def disconnect(self, *args: Any, **kwargs: Any) -> Any: ...
        def read_response(self, *args: Any, **kwargs: Any) -> Any: ...
        def _connect(self) -> Any: ...

else:
    _RedisConnection = object


class Naming:
    """What the connections of one pool know of saying their name."""

    refused = False
    """Whether the server answered with an error, or closed the connection: then never again."""


class _FailoverConnection(_RedisConnection):
    """What both sides have in common."""

    client_name: str | None
    _naming: Naming
    _name: str | None = None
    """To be said over this connection; ``None`` once it was."""
    _own_name: str | None
    locator: Locator | None
    _wrong_server = False
    """Whether the server said that it is not the one that we want."""
    _located = False
    """Whether the connection is open, to an address that the locator found."""

    def _keep_name(self, naming: Naming | None) -> None:
        """Keep redis-py from saying the name."""
        self._naming = naming or Naming()
        self._own_name, self.client_name = self.client_name, None
        self._name = self._own_name

    def _take_name(self) -> tuple[str, str, str] | None:
        """Return the command that says the name, if it is still to be said."""
        name, self._name = self._name, None
        return None if name is None or self._naming.refused else ("CLIENT", "SETNAME", name)

    @contextlib.contextmanager
    def _naming_attempt(self) -> Iterator[None]:
        try:
            yield
        except redis.ResponseError:
            self._naming.refused = True
        except (redis.RedisError, OSError):
            self._naming.refused = True
            raise

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notice an error which says that this is the wrong server, and raise it."""
        try:
            yield
        except redis.ResponseError as said:
            error = _named(said)
            if isinstance(error, redis.exceptions.AskError) and not error.host:
                error.host = self.host  # a node that names no host means its own
            if _says_wrong_server(error):
                # Not closed here: more replies to the same flight of commands may follow.
                self._wrong_server = True
                if self.locator is not None:
                    self._learn(error, self.locator.finder)
            if error is not said:
                raise error from said
            raise

    def _learn(self, error: Exception, finder: Finder) -> None:
        if isinstance(error, redis.exceptions.MovedError):
            finder.redirect((error.host, error.port))
        else:
            finder.distrust()


_CLUSTER_ERRORS: dict[str, type[redis.ResponseError]] = {
    "ASK": redis.exceptions.AskError,
    "CLUSTERDOWN": redis.exceptions.ClusterDownError,
    "MASTERDOWN": redis.exceptions.MasterDownError,
    "MOVED": redis.exceptions.MovedError,
    "TRYAGAIN": redis.exceptions.TryAgainError,
}


def _named(error: redis.ResponseError) -> redis.ResponseError:
    """Return the error in redis-py's class for it: before 6 only its cluster client uses these."""
    mark, _, rest = str(error).partition(" ")
    if type(error) is not redis.ResponseError or mark not in _CLUSTER_ERRORS:
        return error
    return _CLUSTER_ERRORS[mark](rest)


def _says_wrong_server(error: Exception) -> bool:
    wrong = (
        redis.exceptions.ReadOnlyError,
        redis.exceptions.MovedError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.MasterDownError,
    )
    # UNBLOCKED: a blocking read ended because the server became a replica.
    return isinstance(error, wrong) or str(error).startswith("UNBLOCKED")


class _BlockingFailover(_FailoverConnection):
    def __init__(
        self,
        *args: Any,
        locator: Locator | None = None,
        naming: Naming | None = None,
        **kwargs: Any,
    ) -> None:
        self.locator = locator
        super().__init__(*args, **kwargs)
        self._keep_name(naming)
        if "socket_timeout" in kwargs:
            # Unix sockets in redis-py 5.0 forget it: a call would wait for ever.
            self.socket_timeout = kwargs["socket_timeout"]

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        locator = self.locator
        if self._wrong_server:
            self.disconnect()
        elif locator is not None and self._located and locator.due():
            address = locator.check()
            if address not in (None, (self.host, self.port)):
                self.disconnect()
        result = super().connect(*args, **kwargs)
        if command := self._take_name():
            with self._naming_attempt():
                self.send_command(*command)
                self.read_response()
        return result

    def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        self._wrong_server = self._located = False
        self._name = self._own_name
        return super().disconnect(*args, **kwargs)

    def _connect(self) -> Any:
        if self.locator is None:
            return super()._connect()
        self.host, self.port = self.locator.find()
        self._located = True
        try:
            return super()._connect()
        except (redis.RedisError, OSError):
            self.locator.finder.distrust()
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        with self._noticing():
            return super().read_response(*args, **kwargs)


class _AsyncFailover(_FailoverConnection):
    def __init__(
        self,
        *args: Any,
        locator: Locator | None = None,
        naming: Naming | None = None,
        **kwargs: Any,
    ) -> None:
        self.locator = locator
        super().__init__(*args, **kwargs)
        self._keep_name(naming)

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        locator = self.locator
        if self._wrong_server:
            await self.disconnect()
        elif locator is not None and self._located and locator.due():
            address = await locator.check_async()
            if address not in (None, (self.host, self.port)):
                await self.disconnect()
        result = await super().connect(*args, **kwargs)
        if command := self._take_name():
            with self._naming_attempt():
                await self.send_command(*command)
                await self.read_response()
        return result

    async def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        self._wrong_server = self._located = False
        self._name = self._own_name
        return await super().disconnect(*args, **kwargs)

    async def _connect(self) -> Any:
        if self.locator is None:
            return await super()._connect()
        self.host, self.port = await self.locator.find_async()
        self._located = True
        try:
            return await super()._connect()
        except (redis.RedisError, OSError):
            self.locator.finder.distrust()
            raise

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        with self._noticing():
            return await super().read_response(*args, **kwargs)


def failover_class(connection_class: type[Any], *, asynchronous: bool) -> type[Any]:
    """Return a subclass that looks up its server before it connects, if given a ``locator``.

    It closes the connection and opens another once the server answers that it is a replica, or
    that a slot of a cluster is elsewhere.
    """
    side = _AsyncFailover if asynchronous else _BlockingFailover
    return type(connection_class.__name__, (side, connection_class), {})


class _FixedAddress:
    """A finder that knows the address already: a server named it for one request."""

    wrong_server_says_so = True

    def __init__(self, address: Address) -> None:
        self._address = address

    def search(self) -> Generator[Question, Any, Address]:
        return self._address
        yield  # makes it a generator

    def distrust(self) -> None:
        """Do nothing: there is nobody else to ask."""

    def redirect(self, address: Address) -> None:
        """Do nothing: the address is used once."""


def is_ask(error: redis.exceptions.AskError) -> bool:
    """Return whether it is ``ASK``, which concerns one request, and not ``MOVED``, a subclass."""
    return not isinstance(error, redis.exceptions.MovedError)


def _connection_to(pool: Any, error: redis.exceptions.AskError) -> Any:
    arguments = pool.connection_kwargs
    address = (error.host, error.port)
    locator = Locator(_FixedAddress(address), pool.connection_class, {}, 1.0)
    return pool.connection_class(**{**arguments, "locator": locator})


def resend_after_ask(
    pool: Any, error: redis.exceptions.AskError, commands: Sequence[Any]
) -> list[Any]:
    """Send the commands again, to where a cluster node said that their keys may be.

    While a slot migrates, the node that still owns it answers so for keys that it does not have;
    it has executed nothing. The answer is valid for this one request, so the connection is made
    for it alone: other requests go to the old node first, or one record would become two.

    Returns:
        The replies; an error reply stands in place of its command's.
    """
    connection = _connection_to(pool, error)
    try:
        connection.connect()
        connection.send_packed_command(connection.pack_commands([("ASKING",), *commands]))
        return [_reply(connection.read_response) for _ in range(len(commands) + 1)][1:]
    finally:
        connection.disconnect()


def _reply(read: Any) -> Any:
    try:
        return read()
    except redis.ResponseError as error:
        return error


async def resend_after_ask_async(
    pool: Any, error: redis.exceptions.AskError, commands: Sequence[Any]
) -> list[Any]:
    """Do what :func:`resend_after_ask` does, for asyncio."""
    connection = _connection_to(pool, error)
    replies: list[Any] = []
    try:
        await connection.connect()
        await connection.send_packed_command(connection.pack_commands([("ASKING",), *commands]))
        for _ in range(len(commands) + 1):
            try:
                replies.append(await connection.read_response())
            except redis.ResponseError as reply:
                replies.append(reply)
        return replies[1:]
    finally:
        await connection.disconnect(nowait=True)
