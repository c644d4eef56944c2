"""How a store tells one server from another: by INFO, or, where that is denied, by its connection.

A record counts as unchanged only on one and the same server. INFO names the server's process and
its line of promotions. A user without the right to ask has only this: the connection ends with the
process, and is cut by whoever makes another server the master. So each connection gets a label,
every call says over which connection it goes, and what comes back over another does not count.
"""

from __future__ import annotations

import inspect
import logging
import secrets

import redis

from celery_safe_leader._store.codec import ScriptCall, by_connection
from celery_safe_leader._store.keys import ElectionKeys

__all__ = ["ANY_COMMAND", "ServerIdentity"]

logger = logging.getLogger(__name__)

_asked = inspect.signature(redis.ConnectionPool.get_connection).parameters["command_name"]
ANY_COMMAND: tuple[str, ...] = ("_",) if _asked.default is inspect.Parameter.empty else ()
"""Arguments of a pool's ``get_connection()``: before 5.3 redis-py wants the name of a command."""


class ServerIdentity:
    """Knows what the epoch of a server is made of. For one store, whose connects it is told."""

    def __init__(self, keys: ElectionKeys) -> None:
        """Begin with INFO."""
        self._keys = keys
        self.by_connection = False
        """Whether INFO was denied. It stays so: a right that is given later counts after a restart
        of this process."""
        self.label = ""
        """Of the connection that stands."""

    def connected(self) -> None:
        """Take in that a connection was made, before anything is sent over it."""
        self.label = secrets.token_hex(8)

    def labelled(self, call: ScriptCall) -> ScriptCall:
        """Make a call that says over which connection it goes. Have that stand before."""
        return by_connection(call, self._keys, self.label)

    def check(self, label: str) -> None:
        """See that what was sent under a label went over that connection.

        Raises:
            redis.ConnectionError: It went over another: what came back does not count.
        """
        if label != self.label:
            raise redis.ConnectionError("the connection was made anew under the request")

    def denied(self, error: Exception) -> bool:
        """Tell whether an error says that INFO may not be asked; from then on do without it.

        Such a call has changed nothing, so it may be made again.
        """
        said = str(error)
        if not said.startswith("NOINFO"):
            return False
        if not self.by_connection:
            self.by_connection = True
            logger.warning(
                "Election %s: the Redis user may not ask INFO (%s). Restarts and failovers of "
                "Redis are noticed by the connections that they cut, so a standby whose connection "
                "breaks waits for a whole ttl again; see docs/operations/redis-acl.md",
                self._keys.election,
                " ".join(said.removeprefix("NOINFO").split()),
            )
        return True
