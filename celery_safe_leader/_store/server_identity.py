"""How a store tells one server from another: by INFO, or by its connection without it.

A record counts as unchanged only on one and the same server. INFO shows the server's process and
its history of promotions. Without the right to ask INFO, or where a server that imitates Redis does
not show these, only this is left: the connection ends with the process, and is cut by whoever makes
another server the master. So each connection gets a
label, every call says over which connection it goes, and a reply over another does not count.
"""

from __future__ import annotations

import inspect
import secrets

import redis

from celery_safe_leader._loggers import library_logger as logger
from celery_safe_leader._store.codec import ScriptCall, by_connection
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["ANY_COMMAND", "ServerIdentity"]

_asked = inspect.signature(redis.ConnectionPool.get_connection).parameters["command_name"]
ANY_COMMAND: tuple[str, ...] = ("_",) if _asked.default is inspect.Parameter.empty else ()
"""Arguments of a pool's ``get_connection()``: redis-py before 5.3 requires a command name."""


class ServerIdentity:
    """Knows how one store identifies its server. The store reports each new connection."""

    def __init__(self, keys: ElectionKeys) -> None:
        self._keys = keys
        self.by_connection = False
        """Whether INFO was denied, or does not tell. Stays true: a right that is granted later
        counts only after a restart of this process."""
        self.label = ""
        """Of the present connection."""

    def connected(self) -> None:
        """Give a new connection a label. Call it before anything is sent over it."""
        self.label = secrets.token_hex(8)

    def labelled(self, call: ScriptCall) -> ScriptCall:
        """Return a call that says over which connection it goes. Connect before."""
        return by_connection(call, self._keys, self.label)

    def check(self, label: str) -> None:
        """Check that what was sent under a label went over that connection.

        Raises:
            redis.ConnectionError: It went over another, so the reply does not count.
        """
        if label != self.label:
            raise redis.ConnectionError("the connection was replaced during the request")

    def denied(self, error: Exception) -> bool:
        """Return whether an error says that INFO does not help; if so, do without it from now on.

        Such a call has changed nothing, so it may be repeated.
        """
        said = str(error)
        if said.startswith("NOEPOCH"):
            if not self.by_connection:
                self.by_connection = True
                logger.warning(
                    "Election %s: INFO of this server does not show %s, as Redis's does. Restarts "
                    "and failovers are noticed by the connections that they cut: a proxy or a "
                    "service that keeps a connection over a failover can lead to two leaders; see "
                    "docs/operations/redis-acl.md",
                    self._keys.election,
                    " ".join(said.removeprefix("NOEPOCH").split()),
                )
            return True
        if not said.startswith("NOINFO"):
            return False
        if not self.by_connection:
            self.by_connection = True
            logger.warning(
                "Election %s: the Redis user may not run INFO (%s). Restarts and failovers of "
                "Redis are noticed by the connections that they cut, so a standby whose connection "
                "breaks waits a whole ttl again; see docs/operations/redis-acl.md",
                self._keys.election,
                " ".join(said.removeprefix("NOINFO").split()),
            )
        return True
