"""The clocks of this machine, ids and seeds."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any

import pytest

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._runtime.clock import SystemClock, new_candidate_id, new_seed


def test_every_clock_is_read() -> None:
    clock = SystemClock()
    before = Instant(
        time.clock_gettime(time.CLOCK_BOOTTIME),
        time.clock_gettime(time.CLOCK_MONOTONIC_RAW),
        time.time(),
    )
    now = clock.now()
    assert before.boottime <= now.boottime <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before.raw <= now.raw <= time.clock_gettime(time.CLOCK_MONOTONIC_RAW)
    assert abs(now.wall - before.wall) < 30


@pytest.mark.parametrize("missing", ["CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW"])
def test_where_a_clock_is_missing_the_monotonic_one_stands_in(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(time, missing)
    before, now = time.monotonic(), SystemClock().now()
    value = now.boottime if missing == "CLOCK_BOOTTIME" else now.raw
    assert before <= value <= time.monotonic()


def test_where_a_clock_cannot_be_read_the_monotonic_one_stands_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(number: Any) -> float:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(time, "clock_gettime", refuse)
    before, now = time.monotonic(), SystemClock().now()
    assert before <= now.boottime <= time.monotonic()
    assert before <= now.raw <= time.monotonic()


@pytest.mark.parametrize("name", ["boottime", "raw", "wall"])
def test_a_deadline_is_over_when_any_clock_has_reached_it(name: str) -> None:
    clock = SystemClock()
    ahead = clock.now().plus(60.0)
    assert clock.before(ahead)
    assert not clock.before(replace(ahead, **{name: getattr(ahead, name) - 61.0}))


def test_a_candidate_id_can_be_read_by_people() -> None:
    host, pid, chance = new_candidate_id().rsplit(":", 2)
    assert (host, pid) == (socket.gethostname(), str(os.getpid()))
    assert len(chance) == 8


def test_no_two_ids_or_seeds_are_the_same() -> None:
    assert len({new_candidate_id() for _ in range(100)}) == 100
    assert len({new_seed() for _ in range(100)}) == 100


def test_a_fork_repeats_no_seed() -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, new_seed().encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100).decode() != new_seed()
    os.close(read)
    os.close(write)
