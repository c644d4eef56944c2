"""The election of a Redis user who may not run INFO, under the same faults and the same judge."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from tests.model.election.by_connection import ByConnection
from tests.model.election.explorer import explore
from tests.model.election.sites import Sites


def explore_many(sites: Sites, seeds: Iterable[int], *, replicate: bool = False) -> None:
    """Run seeded histories; a violation names its seed."""
    elections = runs = reconnects = 0
    for seed in seeds:
        world = explore(sites, seed, replicate=replicate, make=ByConnection)
        assert isinstance(world, ByConnection)
        runs, elections = runs + 1, elections + world.judge.elections
        reconnects += world.reconnects
    assert elections > 2 * runs, "the histories are too quiet to show anything"
    assert reconnects > runs


def test_no_history_breaks_a_promise_where_info_is_denied(sites: Sites) -> None:
    explore_many(sites, range(1, 21))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_no_failover_breaks_a_promise_where_info_is_denied(sites: Sites) -> None:
    first = random.SystemRandom().randrange(10**9)
    print(f"seeds from {first} on")
    explore_many(sites, range(first, first + 1000))
    explore_many(sites, range(first, first + 50), replicate=True)
