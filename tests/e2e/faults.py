"""Faults that every fault table has: of the links to Redis, and of its data."""

from __future__ import annotations

import random
import time
from typing import Protocol

from tests.support.network.proxy import Proxy
from tests.support.servers import Server

__all__ = ["TAKEOVER", "TTL", "WAIT", "black_hole_for_all", "slow_for_all", "twelve_flushalls"]

TTL = 2.0
WAIT = 0.4
TAKEOVER = 1.01 * TTL + WAIT
"""Seconds within which a silent leader is followed by another."""


class LinkedStage(Protocol):
    """A stage with a server, and a link to it for each place."""

    server: Server

    @property
    def links(self) -> list[Proxy]:
        """The links of all places."""


def black_hole_for_all(stage: LinkedStage) -> float:
    for link in stage.links:
        link.black_hole()
    return _healed(stage)


def slow_for_all(stage: LinkedStage) -> float:
    for link in stage.links:
        link.delay(0.3 * TTL)
    return _healed(stage)


def twelve_flushalls(stage: LinkedStage) -> float:
    seed = random.randrange(10**6)
    print(f"seed={seed}")
    moments, client = random.Random(seed), stage.server.client()
    for _ in range(12):
        time.sleep(moments.uniform(0, 0.5 * TTL))
        client.flushall()
    return time.monotonic()


def _healed(stage: LinkedStage) -> float:
    """Heal all links after 3 ttl, and return when."""
    time.sleep(3 * TTL)
    for link in stage.links:
        link.heal()
    return time.monotonic()
