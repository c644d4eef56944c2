"""Commands that go out together are few writes of a size that has a time limit."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from redis.connection import PythonRespSerializer

from celery_safe_leader._ledger.packed_commands import _LARGEST_WRITE, _join, _pack


@pytest.mark.parametrize(
    ("sizes", "writes"),
    [
        ([], 1),
        ([6_000] * 20, 1),
        ([_LARGEST_WRITE + 1, 1], 2),
        ([6_000] * 200, 3),
    ],
)
def test_pieces_are_joined_into_few_writes(sizes: list[int], writes: int) -> None:
    pieces = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    joined = _join(pieces)
    assert b"".join(joined) == b"".join(pieces)
    assert len(joined) == writes
    assert max(map(len, joined)) <= _LARGEST_WRITE + max(sizes, default=0)


@pytest.mark.parametrize(
    "command",
    [
        (
            "EVALSHA",
            "a" * 40,
            2,
            "{leader:shop}:runs",
            "{leader:Käse}:pending",
            b"\x00\r\n$",
            0,
            -7,
        ),
        ("EVAL", "return 1", 0, b"", "", 10**15, b"x" * 100_000),
    ],
)
def test_a_command_is_packed_as_redis_py_packs_it(command: tuple[Any, ...]) -> None:
    encoder = redis.Redis().connection_pool.get_encoder()
    pack = PythonRespSerializer(6_000, encoder.encode).pack
    assert _pack(command, encoder.encode) == b"".join(pack(*command))
