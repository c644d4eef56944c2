"""Which server or scheduler plays a part in ``make test`` that several can play.

The tests of ``PLACES`` start many processes, or wait, and are alike on each server. They take the
servers in turn in ``make test``: each variant of a test has one, the next variant the next one. The
others have the marker ``long``. Which one it is follows from the name of the test and the order of
its variants, so that it is the same in every run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar
from zlib import crc32

import pytest

__all__ = ["PLACES", "take_turns"]

T = TypeVar("T")

PLACES: Mapping[str, str] = {
    "tests/e2e/beat/test_broker_outage.py": "kind",
    "tests/e2e/beat/test_other_schedulers.py": "kind",
    "tests/e2e/beat/test_own_way.py": "fleet",
    "tests/e2e/worker/": "fleet",
    "tests/e2e/worker/test_dedup.py": "scene",
    "tests/e2e/worker/test_election.py": "stage",
    "tests/e2e/worker/test_revoke_on_loss.py": "stage",
    "tests/integration/beat/test_warm_standby.py": "server",
    "tests/integration/worker/test_acceptance.py": "broker",
}
"""The parameter that stands for it, by the folder or file of the tests."""


def take_turns(items: Iterable[pytest.Item]) -> None:
    """Mark those whose turn it is not as ``long``, unless they are."""
    tests = defaultdict(list)
    for item in items:
        parameters = dict(item.callspec.params) if hasattr(item, "callspec") else {}
        for place, name in PLACES.items():
            if item.nodeid.startswith(place) and name in parameters and not _is_long(item):
                server = parameters.pop(name)
                tests[item.nodeid.partition("[")[0]].append((item, server, parameters))
    for test, found in tests.items():
        variants = _distinct(variant for _, _, variant in found)
        for item, own, variant in found:
            servers = _distinct(server for _, server, other in found if other == variant)
            if own != servers[(crc32(test.encode()) + variants.index(variant)) % len(servers)]:
                item.add_marker("long")


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def _distinct(values: Iterable[T]) -> list[T]:
    found: list[T] = []
    for value in values:
        found += [value] * (value not in found)
    return found
