"""Where the master of a slot is, by any node of the cluster. Does no IO.

All keys of an election are in one slot, so a plain connection to that slot's master is all that
an election needs of a cluster.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import redis
from redis.crc import key_slot

from celery_safe_leader._store.connection.discovery import InTurn, Question
from celery_safe_leader._store.connection.sentinel import read_addresses
from celery_safe_leader._store.connection.urls import Address, RedisUrl

__all__ = ["SlotMaster", "take_nodes"]


def take_nodes(url: RedisUrl, options: dict[str, Any], name: str) -> tuple[Address, ...]:
    """Take what RedBeat's users say of a cluster out of the options; return the nodes to ask.

    Raises:
        ConfigurationError: ``startup_nodes`` is no list of addresses.
    """
    options.pop("cluster", None)
    given = options.pop("startup_nodes", None)
    if given:
        return read_addresses(given, f"startup_nodes of {name}")
    return url.nodes or ((url.host, url.port),)


class SlotMaster(InTurn):
    """Asks nodes of a cluster; goes where one has sent it, once.

    Args:
        seeds: Nodes that the user named. More are learned from them.
        key: Any key of the slot.
    """

    told_by_servers = True
    nobody = "no node names the slot's master"

    def __init__(self, seeds: Sequence[Address], key: str) -> None:
        self.slot = key_slot(key.encode())
        self._seeds = tuple(dict.fromkeys(seeds))
        super().__init__(self._seeds)
        self._redirected: Address | None = None

    def search(self) -> Generator[Question, Any, Address]:
        """Go where a node said, else ask until one names the slot's master."""
        redirected, self._redirected = self._redirected, None
        return redirected or (yield from super().search())

    def _ask(self, address: Address) -> Generator[Question, Any, Address]:
        found = self._read(address, (yield Question(address, ("CLUSTER", "SLOTS"))))
        if found is None:
            raise redis.ConnectionError(f"knows no master of slot {self.slot}")
        return found

    def _read(self, asked: Address, ranges: Any) -> Address | None:
        """Find the master, and learn all nodes."""
        master: Address | None = None
        nodes = [asked]
        for first, last, *copies in ranges:
            addresses = [_endpoint(copy, asked) for copy in copies]
            nodes += [address for address in addresses if address is not None]
            if int(first) <= self.slot <= int(last):
                master = addresses[0]
        # Whoever answered is asked first again; of the rest, those that the user named first.
        self._asked = list(dict.fromkeys((asked, *self._seeds, *nodes)))
        return master

    def redirect(self, address: Address) -> None:
        """Go there next: a node said ``MOVED``."""
        self._redirected = address


def _endpoint(copy: Any, asked: Address) -> Address | None:
    """Read a node of the reply; it may not know its name, and then it is where it was asked."""
    host = copy[0].decode() if isinstance(copy[0], bytes) else str(copy[0] or "")
    if host == "?":
        return None
    return host or asked[0], int(copy[1])
