"""Takes messages off a queue, and prints whose each was, when it was there, and what it covers.

Nothing is parsed before the end: a reader that is busy sees the next message late.
"""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis
from kombu.connection import Connection

from benchmarks.stage import Rig

__all__ = ["RAW", "SAMPLE"]

SAMPLE = "bench:sample"
"""List with a copy of the first message."""
RAW = "raw socket"
"""Header of messages that no scheduler sent."""
_COVERS = re.compile(rb"leader_coversS.{4}(\d+),(\d+)", re.DOTALL)
"""The header as AMQP has it: a name, the type, the length, the string."""


def _read_redis(url: str, queue: str, until: float) -> Iterator[tuple[str, float, int, int]]:
    arrived: list[tuple[float, bytes]] = []
    with redis.Redis.from_url(url) as client:
        while time.time() < until:
            taken = client.blmpop(0.5, 1, queue, direction="RIGHT", count=1)
            if not taken:
                continue
            # What is in the queue now has arrived, however long it takes to read it out.
            there = client.llen(queue)
            at = time.time()
            if not arrived:
                client.lpush(SAMPLE, taken[1][0])
            arrived.append((at, taken[1][0]))
            if there:
                rest = client.lmpop(1, queue, direction="RIGHT", count=there)
                arrived += [(at, raw) for raw in rest[1]]
    for at, raw in arrived:
        headers = json.loads(raw)["headers"]
        first, last = map(int, headers["leader_covers"].split(","))
        yield RAW if RAW in headers else "leader", at, first, last


def _read_amqp(url: str, queue: str, until: float) -> Iterator[tuple[str, float, int, int]]:
    pieces: list[tuple[float, bytes]] = []
    with Connection(url, heartbeat=0) as connection:
        channel = connection.default_channel
        Rig(url, "", Path(), queue).app(0, 0.0).amqp.queues[queue](channel).declare()
        channel.basic_consume(queue, no_ack=True)
        line: socket.socket = connection.connection.transport.sock
        line.settimeout(0.5)
        # A client that parses needs 0.1 ms for each message.
        while time.time() < until:
            try:
                piece = line.recv(2**20)
            except TimeoutError:
                continue
            pieces.append((time.time(), piece))
        connection.collect()
    everything, ends, total = b"".join(piece for _, piece in pieces), [], 0
    for at, piece in pieces:
        total += len(piece)
        ends.append((total, at))
    position = 0
    for found in _COVERS.finditer(everything):
        while ends[position][0] < found.end():
            position += 1
        yield "leader", ends[position][1], int(found[1]), int(found[2])


if __name__ == "__main__":
    url, queue, until = sys.argv[1:]
    read = _read_amqp if url.startswith("amqp") else _read_redis
    for arrival in read(url, queue, float(until)):
        print(json.dumps(arrival))
