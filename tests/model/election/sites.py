"""Real servers of the model, and what can happen to them.

Every script runs on a real server. Roles and epochs are real too: whoever is not the master is a
replica (of a port where nobody listens), and a promotion is ``REPLICAOF NO ONE``, which gives the
server a new ``master_replid``. Copying comes in two forms: by ``DUMP`` and ``RESTORE`` of the
record, so that a copy can be as old as the model wants and costs no time; or by real replication.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader._store.sync import RedisStore
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

__all__ = ["Site", "Sites", "started_sites"]

_NOBODY = 1
"""A port at which nobody listens."""


class Site:
    """One server."""

    def __init__(self, name: str, server: Server) -> None:
        self.name = name
        self.server = server
        # Any: the annotations of redis-py cover sync and asyncio at once.
        self.client: Any = redis.Redis(
            unix_socket_path=str(server.socket_path), protocol=2, retry=Retry(NoBackoff(), 0)
        )

    def store(self, keys: ElectionKeys) -> RedisStore:
        """Make a store that talks to this server."""
        return RedisStore(self.client, self.client, keys)

    def demote(self) -> None:
        """Make it a replica that never gets anything."""
        self.client.execute_command("REPLICAOF", "127.0.0.1", _NOBODY)

    def promote(self) -> None:
        """Make it a master, with whatever it holds."""
        self.client.execute_command("REPLICAOF", "NO", "ONE")

    def dump(self, keys: ElectionKeys) -> bytes | None:
        """Copy the record."""
        copied: bytes | None = self.client.dump(keys.lease)
        return copied

    def restore(self, keys: ElectionKeys, copied: bytes | None) -> None:
        """Put a copy in the place of the record; ``None`` removes it."""
        if copied is None:
            self.client.delete(keys.lease)
        else:
            self.client.restore(keys.lease, 0, copied, replace=True)

    def epoch(self) -> tuple[str, str]:
        """Return run id and replication id."""
        run_id = self.client.info("server")["run_id"]
        return run_id, self.client.info("replication")["master_replid"]


class Sites:
    """Servers of which one is the master that candidates are connected to."""

    def __init__(self, all_sites: list[Site]) -> None:
        self.all = all_sites
        self.master = all_sites[0]
        for site in all_sites[1:]:
            site.demote()

    def begin(self) -> None:
        """Forget all data; the first site is the master."""
        for site in self.all:
            site.promote()
            site.client.flushall()
            if site is not self.all[0]:
                site.demote()
        self.master = self.all[0]

    def replicate(self, to: Site) -> None:
        """Copy all data by real replication; the copy gets nothing more afterwards."""
        server = self.master.server
        to.client.execute_command("REPLICAOF", server.host, server.port)
        wait_until(lambda: self._in_step(to), 20, f"{to.name} has what {self.master.name} has")
        to.demote()

    def _in_step(self, to: Site) -> bool:
        copied, original = to.client.info("replication"), self.master.client.info("replication")
        return bool(
            copied.get("master_link_status") == "up"
            and copied["master_replid"] == original["master_replid"]
            and copied["slave_repl_offset"] >= original["master_repl_offset"]
        )

    def fail_over(self, to: Site) -> None:
        """Promote another server with what it holds. The old master does not know its data."""
        self.master.demote()
        to.promote()
        self.master = to


@contextlib.contextmanager
def started_sites(count: int = 3, kind: str = "valkey") -> Iterator[Sites]:
    """Start servers and end them."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(Server(kind, unix_socket=True, config={"repl-timeout": "3600"}))
            for _ in range(count)
        ]
        yield Sites([Site("ABCD"[place], server) for place, server in enumerate(servers)])
