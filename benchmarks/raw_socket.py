"""The least that any scheduler could need: bytes that are ready, written to a warm socket.

For each second one LPUSH with as many messages as there are runs, half a second before these: so
nobody disturbs the other, and both are measured under the same load.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import redis

from benchmarks.reading import RAW, SAMPLE

_OFF = 0.5
"""Seconds."""


def _burst(queue: str, sample: dict[str, Any], count: int, moment: float) -> bytes:
    """Return the bytes of one LPUSH of so many messages of one moment."""
    covers = f"{round(moment * 1e6)},{round(moment * 1e6)}"
    headers = {**sample["headers"], "leader_covers": covers, RAW: 1}
    message = json.dumps({**sample, "headers": headers}).encode()
    parts = [b"LPUSH", queue.encode(), *[message] * count]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)])


def _send(url: str, queue: str, first: float, counts: Sequence[int]) -> None:
    # It is killed if there is no leader whose message could come.
    with redis.Redis.from_url(url, socket_timeout=None) as client:
        taken = client.blpop([SAMPLE])
        place = client.connection_pool.connection_kwargs
    sample = json.loads(taken[1])
    moments = [first + 1 + number - _OFF for number in range(len(counts))]
    bursts = [
        _burst(queue, sample, count, moment) for count, moment in zip(counts, moments, strict=True)
    ]
    with socket.create_connection((place["host"], place["port"]), timeout=5) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(b"PING\r\n")
        line.recv(100)
        for burst, moment in zip(bursts, moments, strict=True):
            time.sleep(max(0.0, moment - time.time()))
            line.sendall(burst)
            line.recv(100)


if __name__ == "__main__":
    url, queue, first, counts = sys.argv[1:]
    _send(url, queue, float(first), json.loads(counts))
