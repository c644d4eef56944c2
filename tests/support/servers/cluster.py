"""A cluster of three masters and three replicas: real ones, on 127.0.0.1."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import redis
from redis.crc import key_slot

from tests.support.network.ports import free_port
from tests.support.processes.cleanup import CleansUp
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.kinds import OLDEST

__all__ = ["Cluster", "Node"]

_SLOTS = 16384
_MASTERS = 3
_HIGHEST = 22_000
"""Port whose second one, 10,000 above, is below those of outgoing connections."""


class Node(Server):
    """A node of a cluster."""

    def __init__(self, kind: str, *, password: str = "") -> None:
        config = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": "1000",
            "cluster-config-file": "nodes.conf",
        }
        if kind != OLDEST:  # which takes its port and 10,000
            config["cluster-port"] = str(free_port())
        super().__init__(kind, password=password, config=config)
        while kind == OLDEST and self.port > _HIGHEST:
            self.port = free_port()

    def ask(self, *command: str | int, timeout: float = 5.0) -> Any:
        """Send one command."""
        with self.client(socket_timeout=timeout) as client:
            return client.execute_command(*command)

    @property
    def bus_port(self) -> str:
        """Where nodes talk to each other."""
        return self._config.get("cluster-port", str(self.port + 10_000))

    @property
    def node_id(self) -> str:
        """Its name in the cluster."""
        return str(self.ask("CLUSTER", "MYID"))

    def role(self) -> str:
        """Return ``master`` or ``slave``; empty while it does not answer."""
        try:
            return str(self.ask("ROLE", timeout=0.5)[0])
        except (redis.ConnectionError, redis.TimeoutError):
            return ""

    def info(self) -> dict[str, str]:
        """Return ``CLUSTER INFO``; nothing while it does not answer."""
        try:
            lines = self.ask("CLUSTER", "INFO", timeout=0.5)
        except (redis.ConnectionError, redis.TimeoutError):
            return {}
        if isinstance(lines, dict):
            return lines
        return dict(line.split(":", 1) for line in str(lines).splitlines() if ":" in line)


class Cluster(CleansUp):
    """Three masters with a third of the slots each, and a replica of each.

    Args:
        kind: Of the programs.
        password: Of all nodes.
    """

    def __init__(self, kind: str, *, password: str = "") -> None:
        self.kind = kind
        self.password = password
        self.nodes: list[Node] = []

    def __enter__(self) -> Cluster:
        with ExitStack() as cleanup:
            for _ in range(2 * _MASTERS):
                node = Node(self.kind, password=self.password)
                cleanup.callback(node.close)
                node.start()
                self.nodes.append(node)
            self._join()
            self._cleanup = cleanup.pop_all()
        return self

    def _join(self) -> None:
        masters, replicas = self.nodes[:_MASTERS], self.nodes[_MASTERS:]
        for place, master in enumerate(masters):
            first, last = (_SLOTS * place // _MASTERS, _SLOTS * (place + 1) // _MASTERS - 1)
            master.ask("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            master.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port, self.nodes[0].bus_port)
        self._wait(lambda node: node.info().get("cluster_known_nodes") == str(2 * _MASTERS))
        for master, replica in zip(masters, replicas, strict=True):
            wait_until(partial(_replicate, replica, master.node_id), 30, "CLUSTER REPLICATE")
        self.wait_whole()

    def _wait(self, holds: Callable[[Node], bool], timeout: float = 30.0) -> None:
        wait_until(
            lambda: all(holds(node) for node in self.nodes if node.running),
            timeout,
            lambda: f"the cluster: {[node.info() for node in self.nodes]}",
            interval=0.05,
        )

    def wait_whole(self) -> None:
        """Wait until all slots are served, and every replica follows its master."""
        self._wait(lambda node: node.info().get("cluster_state") == "ok")
        self._wait(lambda node: node.role() == "master" or node._follows())

    def seeds(self, key: str) -> list[Node]:
        """Return the replicas of the masters that do not have a key's slot."""
        port = self.master_of(key).port
        roles = [(node, node.ask("ROLE")) for node in self.nodes if node.running]
        return [node for node, role in roles if role[0] == "slave" and role[2] != port]

    def url(self, key: str) -> str:
        """``redis+cluster://…`` with those nodes, so that the key's own has to be found."""
        login = f":{self.password}@" if self.password else ""
        nodes = ",".join(f"127.0.0.1:{node.port}" for node in self.seeds(key))
        return f"redis+cluster://{login}{nodes}"

    @staticmethod
    def slot_of(key: str) -> int:
        """Return the slot of a key."""
        return key_slot(key.encode())

    def master_of(self, key: str) -> Node:
        """Return the master of a key's slot, by the first node that answers."""
        slot = self.slot_of(key)
        for node in self.nodes:
            if not node.running:
                continue
            try:
                ranges = node.ask("CLUSTER", "SLOTS", timeout=0.5)
            except (redis.ConnectionError, redis.TimeoutError):
                continue
            for first, last, master, *_ in ranges:
                if first <= slot <= last:
                    return next(n for n in self.nodes if n.port == master[1])
        raise AssertionError(f"no node knows the master of slot {slot}")

    def replica_of(self, master: Node) -> Node:
        """Return a replica of a master."""
        for node in self.nodes:
            if node is not master and node.running and node.role() == "slave":
                if node.ask("ROLE")[2] == master.port:
                    return node
        raise AssertionError(f"{master.port} has no replica")

    def other_master(self, than: Node) -> Node:
        """Return a master of other slots."""
        return next(n for n in self.nodes if n is not than and n.running and n.role() == "master")

    def wait_failed_over(self, key: str, former: Node, timeout: float = 30.0) -> float:
        """Wait until another node is the master of a key's slot; return the moment."""

        def over() -> bool:
            now = self.master_of(key)
            return now is not former and now.role() == "master"

        wait_until(over, timeout, lambda: f"a failover: {[n.info() for n in self.nodes]}")
        return time.monotonic()


def _replicate(replica: Node, master_id: str) -> bool:
    try:
        return bool(replica.ask("CLUSTER", "REPLICATE", master_id))
    except redis.ResponseError as error:
        if "Unknown node" in str(error) or "only replicate a master" in str(error):
            return False
        raise
