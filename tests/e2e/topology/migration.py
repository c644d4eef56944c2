"""Moving a slot of a cluster from one node to another, as a resharding does."""

from __future__ import annotations

import time

from tests.support.processes.waiting import wait_until
from tests.support.servers.cluster import Cluster, Node

__all__ = ["migrate"]


def migrate(cluster: Cluster, key: str, pause: float = 0.0) -> None:
    """Move the slot of a key.

    Args:
        cluster: Where.
        key: Is moved first, and alone.
        pause: Seconds for which nothing, then this key alone, then all keys have moved, and the
            slot has not.
    """
    source = cluster.master_of(key)
    target = cluster.other_master(source)
    slot = cluster.slot_of(key)
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.node_id)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.node_id)
    time.sleep(pause)
    _move(source, target, [key])
    time.sleep(pause)
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
        _move(source, target, keys)
    time.sleep(pause)
    for node in (target, source):
        node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.node_id)
    wait_until(lambda: cluster.master_of(key) is target, 30, "the slot's new node")


def _move(source: Node, target: Node, keys: list[str]) -> None:
    login = ("AUTH", target.password) if target.password else ()
    source.ask("MIGRATE", target.host, target.port, "", 0, 5000, *login, "KEYS", *keys)
