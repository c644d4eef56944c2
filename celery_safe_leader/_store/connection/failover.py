"""Connections that find out where their server is, and that leave it once it is the wrong one.

Here is all that leans on private parts of redis-py: ``_connect()``, which makes the socket and
nothing else, of blocking and asyncio connections alike, as read in 5.0, 6.4, 7.1 and 8.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import redis

from celery_safe_leader._store.connection.discovery import Finder, Guide, Question
from celery_safe_leader._store.connection.urls import Address

__all__ = ["ask_there", "ask_there_async", "is_elsewhere_for_now", "located"]


if TYPE_CHECKING:

    class _Beneath:
        """What is used of a connection of redis-py, which awaits on its asyncio side."""

        host: str
        port: int

        def connect(self, *args: Any, **kwargs: Any) -> Any: ...
        def disconnect(self, *args: Any, **kwargs: Any) -> Any: ...
        def read_response(self, *args: Any, **kwargs: Any) -> Any: ...
        def _connect(self) -> Any: ...

else:
    _Beneath = object


class _Left(_Beneath):
    """What both sides of a located connection have in common."""

    guide: Guide | None
    _left = False
    _stands = False
    """Whether a connection was made, and not closed since: by a guide's word."""

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        """Notice an error that says: I am not the server that you want. Raises it."""
        try:
            yield
        except redis.ResponseError as said:
            error = _named(said)
            if isinstance(error, redis.exceptions.AskError) and not error.host:
                error.host = self.host  # it knows no name of its neighbour but its own
            if _says_wrong_server(error):
                # Not closed here: of several commands in one flight, more replies may come.
                self._left = True
                if self.guide is not None:
                    self._learn(error, self.guide.finder)
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
    """Give an error the class that redis-py has for it: before 6 only its cluster client does."""
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
    # UNBLOCKED: a blocking read ended since the server became a replica.
    return isinstance(error, wrong) or str(error).startswith("UNBLOCKED")


class _Blocking(_Left):
    def __init__(self, *args: Any, guide: Guide | None = None, **kwargs: Any) -> None:
        self.guide = guide
        super().__init__(*args, **kwargs)
        if "socket_timeout" in kwargs:
            # Unix sockets of redis-py 5.0 forget it: a call would wait for good.
            self.socket_timeout = kwargs["socket_timeout"]

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        guide = self.guide
        if self._left:
            self.disconnect()
        elif guide is not None and self._stands and guide.due():
            address = guide.check()
            if address not in (None, (self.host, self.port)):
                self.disconnect()
        return super().connect(*args, **kwargs)

    def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        self._left = self._stands = False
        return super().disconnect(*args, **kwargs)

    def _connect(self) -> Any:
        if self.guide is None:
            return super()._connect()
        self.host, self.port = self.guide.find()
        self._stands = True
        try:
            return super()._connect()
        except (redis.RedisError, OSError):
            self.guide.finder.distrust()
            raise

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        with self._noticing():
            return super().read_response(*args, **kwargs)


class _Async(_Left):
    def __init__(self, *args: Any, guide: Guide | None = None, **kwargs: Any) -> None:
        self.guide = guide
        super().__init__(*args, **kwargs)

    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        guide = self.guide
        if self._left:
            await self.disconnect()
        elif guide is not None and self._stands and guide.due():
            address = await guide.check_async()
            if address not in (None, (self.host, self.port)):
                await self.disconnect()
        return await super().connect(*args, **kwargs)

    async def disconnect(self, *args: Any, **kwargs: Any) -> Any:
        self._left = self._stands = False
        return await super().disconnect(*args, **kwargs)

    async def _connect(self) -> Any:
        if self.guide is None:
            return await super()._connect()
        self.host, self.port = await self.guide.find_async()
        self._stands = True
        try:
            return await super()._connect()
        except (redis.RedisError, OSError):
            self.guide.finder.distrust()
            raise

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        with self._noticing():
            return await super().read_response(*args, **kwargs)


def located(connection_class: type[Any], *, asynchronous: bool) -> type[Any]:
    """Return a subclass that asks ``guide``, if it is given one, before it connects.

    It is dropped, and made anew, once the server answers that it is a replica, or that a slot of
    a cluster is elsewhere.
    """
    side = _Async if asynchronous else _Blocking
    return type(connection_class.__name__, (side, connection_class), {})


class _There:
    """A finder of one address, which a server has named for one request."""

    told_by_servers = True

    def __init__(self, address: Address) -> None:
        self._address = address

    def search(self) -> Generator[Question, Any, Address]:
        return self._address
        yield  # makes it a generator

    def distrust(self) -> None:
        """Nobody else is asked."""

    def redirect(self, address: Address) -> None:
        """Nobody comes back."""


def is_elsewhere_for_now(error: redis.exceptions.AskError) -> bool:
    """Tell ``ASK`` from ``MOVED``: keys of this one request may be elsewhere, the slot is not."""
    return not isinstance(error, redis.exceptions.MovedError)


def _elsewhere(pool: Any, error: redis.exceptions.AskError) -> Any:
    arguments = pool.connection_kwargs
    guide = Guide(_There((error.host, error.port)), pool.connection_class, {}, 1.0)
    return pool.connection_class(**{**arguments, "guide": guide})


def ask_there(pool: Any, error: redis.exceptions.AskError, commands: Sequence[Any]) -> list[Any]:
    """Send the commands once more to where a cluster node said that their keys may be.

    While a slot migrates, the node that still has it says so of keys that it has not, and has
    executed nothing. It holds for this one request, so the connection is made for it alone:
    what else is asked goes to the old node first, or one record would become two.

    Returns:
        The replies; an error reply in the place of its command's.
    """
    connection = _elsewhere(pool, error)
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


async def ask_there_async(
    pool: Any, error: redis.exceptions.AskError, commands: Sequence[Any]
) -> list[Any]:
    """Do as :func:`ask_there`."""
    connection = _elsewhere(pool, error)
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
