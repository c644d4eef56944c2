"""Each variant of a test that several servers can play has one of them in ``make test``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tests.support.turns import PLACES, take_turns

PLACE = "tests/e2e/worker/"
SERVERS = ["redis", "amqp"]


class Item:
    """What a test is to pytest, as far as it matters here."""

    def __init__(self, test: str, *markers: str, **parameters: Any) -> None:
        self.nodeid = f"{PLACE}{test}[{'-'.join(map(str, parameters.values()))}]"
        self.callspec = SimpleNamespace(params=parameters)
        self.markers = list(markers)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.markers else None

    def add_marker(self, name: str) -> None:
        self.markers.append(name)


def ordinary(items: list[Any]) -> list[Any]:
    """Return the parameters of those that run in ``make test``."""
    take_turns(items)
    return [item.callspec.params for item in items if "long" not in item.markers]


def test_each_variant_takes_one_server_and_the_next_one_the_next() -> None:
    pools = ["prefork", "threads", "solo", "gevent"]
    items = [Item("t.py::t", **{PLACES[PLACE]: s}, pool=pool) for s in SERVERS for pool in pools]
    kept = {each["pool"]: each[PLACES[PLACE]] for each in ordinary(items)}
    assert len(items) - sum("long" in item.markers for item in items) == 4
    assert kept["prefork"] == kept["solo"] != kept["threads"] == kept["gevent"]


def test_one_that_runs_in_the_long_run_anyway_takes_no_turn() -> None:
    for marked in SERVERS:
        items = [
            Item("t.py::t", *["long"] * (server == marked), **{PLACES[PLACE]: server})
            for server in SERVERS
        ]
        assert [each[PLACES[PLACE]] for each in ordinary(items)] == [
            server for server in SERVERS if server != marked
        ]


def test_others_are_left_alone() -> None:
    items = [Item("t.py::t", other=value) for value in SERVERS]
    assert len(ordinary(items)) == 2
