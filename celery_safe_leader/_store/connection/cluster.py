"""Finds the master of a slot by asking nodes of the cluster. Does no IO.

All keys of an election are in one slot, so a plain connection to the master of that slot is all
that an election needs.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import redis
from redis.crc import key_slot

from celery_safe_leader._store.connection.discovery import Question, SequentialFinder
from celery_safe_leader._store.connection.sentinel import read_addresses
from celery_safe_leader._store.connection.urls import Address, RedisUrl

__all__ = ["SlotMaster", "pop_cluster_nodes"]


def pop_cluster_nodes(url: RedisUrl, options: dict[str, Any], name: str) -> tuple[Address, ...]:
    """Remove RedBeat's options for a cluster from the options, and return the nodes to ask.

    Raises:
        ConfigurationError: ``startup_nodes`` is not a list of addresses.
    """
    options.pop("cluster", None)
    given = options.pop("startup_nodes", None)
    if given:
        return read_addresses(given, f"startup_nodes of {name}")
    return url.nodes or ((url.host, url.port),)


class SlotMaster(SequentialFinder):
    """Finds the master by asking nodes, or takes the address of a redirection, once.

    Args:
        seeds: Nodes that the user named. More are learned from them.
        key: Any key in the slot.
    """

    wrong_server_says_so = True
    nobody_knew = "no node names the slot's master"

    def __init__(self, seeds: Sequence[Address], key: str) -> None:
        self.slot = key_slot(key.encode())
        self._seeds = tuple(dict.fromkeys(seeds))
        super().__init__(self._seeds)
        self._redirected: Address | None = None

    def search(self) -> Generator[Question, Any, Address]:
        """Return where a node redirected us, else ask until one names the slot's master."""
        redirected, self._redirected = self._redirected, None
        return redirected or (yield from super().search())

    def _ask(self, address: Address) -> Generator[Question, Any, Address]:
        found = self._read(address, (yield Question(address, ("CLUSTER", "SLOTS"))))
        if found is None:
            raise redis.ConnectionError(f"knows no master of slot {self.slot}")
        return found

    def _read(self, asked: Address, ranges: Any) -> Address | None:
        """Return the master, and remember all nodes."""
        master: Address | None = None
        nodes = [asked]
        for first, last, *copies in ranges:
            addresses = [_endpoint(copy, asked) for copy in copies]
            nodes += [address for address in addresses if address is not None]
            if int(first) <= self.slot <= int(last):
                master = addresses[0]
        # Next time the node that answered is asked first, then those that the user named.
        self._asked = list(dict.fromkeys((asked, *self._seeds, *nodes)))
        return master

    def redirect(self, address: Address) -> None:
        """Return this address from the next search: a node said ``MOVED``."""
        self._redirected = address


def _endpoint(copy: Any, asked: Address) -> Address | None:
    """Return the address of a node; one that does not know its own host is where we asked."""
    host = copy[0].decode() if isinstance(copy[0], bytes) else str(copy[0] or "")
    if host == "?":
        return None
    return host or asked[0], int(copy[1])
