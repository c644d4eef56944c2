"""How the Redis of the elections is set up, as far as the Redis user may ask."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from typing import Any

import redis

from celery_safe_leader._operations.health.finding import Finding, bad, doubtful, good
from celery_safe_leader._operations.output import clause, duration, plain
from celery_safe_leader._operations.target import optional
from celery_safe_leader._store.errors import translate
from celery_safe_leader._store.server_check import OLDEST
from celery_safe_leader._store.server_now import read_time

__all__ = ["server_findings"]

_ASKED = 5
"""Requests whose round trips are compared."""
_SLOW = 0.1
"""Of a ttl: a round trip from which on failovers, pauses and retries leave too little."""
_TOO_SLOW = 1 / 3
"""Of a ttl: after so long a request is given up."""
_APART = 1.0
"""Seconds between this machine's clock and Redis's that are more than NTP leaves."""
_SLACK = 5.0
"""Seconds, or a ttl, from which on a beat stands down."""
_FULL = 0.9


def server_findings(
    client: redis.Redis, ttl: float | None, wait_replicas: int | None
) -> Iterator[Finding]:
    """Return what is to be said of a server.

    Args:
        client: For it.
        ttl: Seconds; ``None`` if it is not known.
        wait_replicas: As the app sets it; ``None`` if it is not known.

    Raises:
        StoreError: It does not answer, or refuses for another reason than a missing right.
    """
    yield from _clock(client, ttl)
    info, refused = optional(lambda: _info(client))
    if info is None:
        yield doubtful(
            "INFO",
            f"the Redis user may not run it ({refused}), so release, memory, persistence and "
            "replicas are unknown, and failovers are noticed by the connections that they cut",
            "grant +info; see docs/operations/redis-acl.md",
        )
        return
    yield good("INFO", "allowed: restarts and failovers are noticed")
    yield from _release(info)
    yield from _role(info, wait_replicas)
    yield from _memory(info)
    yield from _persistence(info)


def _info(client: Any) -> Mapping[str, Any]:
    try:
        found = client.execute_command("INFO")
    except (redis.RedisError, OSError) as exc:
        raise translate("INFO", exc) from exc
    return found if isinstance(found, Mapping) else {}


def _clock(client: redis.Redis, ttl: float | None) -> Iterator[Finding]:
    read, refused = optional(lambda: _ask_time(client))
    if read is None:
        yield doubtful("clock", f"the Redis user may not run TIME ({refused})", "grant +time")
        return
    taken, apart = read
    shown = duration(taken) if taken >= 0.001 else f"{1e6 * taken:.0f} µs"
    if ttl is None:
        yield good("round trip", shown)
    elif taken > _TOO_SLOW * ttl:
        yield bad(
            "round trip",
            f"{shown}, with a ttl of {ttl:g} s: requests are given up after a third of it",
            f"set a ttl of at least {10 * taken:.2g} s, or a Redis that is nearer",
        )
    elif taken > _SLOW * ttl:
        yield doubtful(
            "round trip",
            f"{shown}, which is much for a ttl of {ttl:g} s",
            f"set a ttl of at least {10 * taken:.2g} s",
        )
    else:
        yield good("round trip", f"{shown}, with a ttl of {ttl:g} s")
    limit = max(_SLACK, ttl or 0.0)
    said = f"this machine's and Redis's differ by {duration(abs(apart))}"
    if abs(apart) > limit:
        yield bad("clock", f"{said}: a beat here stands down", "let NTP set both clocks")
    elif abs(apart) > _APART:
        yield doubtful("clock", f"{said}: runs of a beat here are off by that", "check NTP on both")
    else:
        yield good("clock", said)


def _ask_time(client: redis.Redis) -> tuple[float, float]:
    """Return a usual round trip, and by how much this machine's clock is ahead, in seconds."""
    taken, apart = [], []
    for _ in range(_ASKED):
        began, wall = time.monotonic(), time.time()
        now_us = read_time(client)
        seconds = time.monotonic() - began
        taken.append(seconds)
        apart.append(wall + seconds / 2 - now_us / 1e6)
    # The first one connects.
    return statistics.median(taken[1:]), statistics.median(apart[1:])


def _release(info: Mapping[str, Any]) -> Iterator[Finding]:
    said = str(info.get("redis_version", ""))
    name = f"Redis {said}"
    if "valkey_version" in info:
        name = f"Valkey {info['valkey_version']}"
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})", said)
    if numbers is None:
        yield doubtful("server", "it does not say its release", "check that it is Redis or Valkey")
    elif (int(numbers[1]), int(numbers[2])) < OLDEST:
        yield bad(
            "server",
            f"{plain(name, 60)} is older than {OLDEST[0]}.{OLDEST[1]}, and never tested",
            "upgrade it",
        )
    else:
        yield good("server", plain(name, 60))


def _role(info: Mapping[str, Any], wait_replicas: int | None) -> Iterator[Finding]:
    role = info.get("role")
    if role != "master":
        yield bad(
            "role",
            f"this server is a {plain(str(role), 40)}, and only a master can hold an election",
            "let the URL name the master, or the Sentinels",
        )
        return
    replicas = info.get("connected_slaves")
    replicas = replicas if isinstance(replicas, int) else 0
    asked = wait_replicas or 0
    said = f"{clause(replicas, 'replica')} connected, wait_replicas={asked}"
    if asked > replicas:
        yield bad("replicas", f"{said}: no lease counts, so nobody leads", "connect the replicas")
    elif replicas and wait_replicas is not None and 2 * (asked + 1) <= replicas + 1:
        yield doubtful(
            "replicas",
            f"{said}: a failover to a replica that lags takes back what it lacks, and while a "
            "partition leaves two masters, two can lead",
            f"set leader_wait_replicas to {(replicas + 1) // 2}, a majority of all copies",
        )
    else:
        yield good("replicas", said)


def _memory(info: Mapping[str, Any]) -> Iterator[Finding]:
    policy, limit = str(info.get("maxmemory_policy", "")), info.get("maxmemory")
    used = info.get("used_memory")
    if not isinstance(limit, int) or limit <= 0:
        yield good("memory", f"no maxmemory, so nothing is evicted (policy {plain(policy, 40)})")
        return
    if policy != "noeviction":
        yield bad(
            "memory",
            f"maxmemory-policy is {plain(policy, 40)}: once it is full, it may evict the "
            "election's record, and with allkeys-… also the record of periodic runs",
            "set maxmemory-policy noeviction, which Celery's broker needs as well",
        )
    share = used / limit if isinstance(used, int) else 0.0
    if share > _FULL:
        yield doubtful(
            "memory",
            f"{share:.0%} of maxmemory is used: once it is full, writes are refused",
            "raise maxmemory, or find out what fills it",
        )
    elif policy == "noeviction":
        yield good("memory", f"maxmemory-policy noeviction, {share:.0%} used")


def _persistence(info: Mapping[str, Any]) -> Iterator[Finding]:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name) not in (None, "ok")
    ]
    if failed:
        yield bad(
            "persistence",
            f"{', '.join(failed)} is not ok: Redis may refuse writes, and a restart loses them",
            "look at Redis's log and at its disk",
        )
    elif not info.get("aof_enabled"):
        yield doubtful(
            "persistence",
            "no append-only file: if Redis crashes, the ledger is lost back to the last snapshot, "
            "or entirely. A living leader writes it back; without one, runs may be repeated or "
            "missed",
            "set appendonly yes",
        )
    else:
        yield good("persistence", "append-only file")
