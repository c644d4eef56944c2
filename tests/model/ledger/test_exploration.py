"""That nothing is missed by not going through the same state twice."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import redis

from tests.model.ledger import both_ways, leader
from tests.model.ledger import whole_state as whole
from tests.model.ledger.cases import KINDS, SHAPES_OF_TWO
from tests.model.ledger.exploration import Explored, WrongHistoryError, explore
from tests.model.ledger.leader import Leader
from tests.model.ledger.variants import VARIANTS, Variant, leave_out
from tests.model.ledger.whole_state import whole_state
from tests.model.ledger.world import World
from tests.support.servers import Server

Kinds = tuple[type[Leader], type[Leader]]
Shape = tuple[int, int, int]

WRITE_AHEAD = KINDS["both write-ahead"]
WITHOUT_LOSSES = {name: each for name, each in VARIANTS.items() if not each.losses}
FOUND = [
    "no fence",
    "published whatever the run is",
    "acceptance by anybody",
    "settled as if accepted",
]
"""Rules without which two occurrences go wrong; the others take lost data, or a longer history."""


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server("valkey", unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


@pytest.fixture(scope="module")
def once(client: redis.Redis) -> Explored:
    return explore(client, (1, 2, 1), "lifo", WRITE_AHEAD, sleepers=True)


def both(client: redis.Redis, shape: Shape, kinds: Kinds) -> tuple[Explored, Explored]:
    """Go through each state once, and then again for each history that leads to it."""
    once = explore(client, shape, "lifo", kinds, sleepers=True)
    again = explore(
        client, shape, "lifo", kinds, sleepers=True, remembers=False, base=once.base
    )  # fmt: skip
    return once, again


def check_same(once: Explored, again: Explored) -> None:
    assert once.outcomes == again.outcomes
    assert once.states <= once.histories < again.histories


@pytest.mark.timeout(600)  # 27 s beside one busy process on each core, over 120 s beside ten
def test_histories_end_alike_whether_or_not_they_go_where_others_have_been(
    client: redis.Redis, once: Explored
) -> None:
    again = explore(
        client, (1, 2, 1), "lifo", WRITE_AHEAD, sleepers=True, remembers=False, base=once.base
    )  # fmt: skip
    check_same(once, again)
    assert len(once.outcomes) > 5


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("shape", SHAPES_OF_TWO.values(), ids=SHAPES_OF_TWO)
def test_all_histories_of_two_occurrences_end_alike(
    client: redis.Redis, shape: Shape, kinds: Kinds
) -> None:
    check_same(*both(client, shape, kinds))


@pytest.mark.parametrize("part", ["server", "leaders"])
def test_a_state_that_lacks_a_part_is_noticed(
    client: redis.Redis, once: Explored, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """So that the comparison is known to fail."""
    lacking: dict[str, tuple[Any, str, Any]] = {
        "server": (whole, "_EVERYTHING", "return {}"),
        "leaders": (whole._Writer, "_object", lambda *_: None),
    }
    monkeypatch.setattr(*lacking[part])
    try:
        found = explore(client, (1, 2, 1), "lifo", WRITE_AHEAD, sleepers=True, base=once.base)
    except WrongHistoryError:
        return  # such as a state that a history seems to be in twice
    assert found.states < once.states


def is_wrong(client: redis.Redis, variant: Variant, *, remembers: bool) -> bool:
    """Return whether two occurrences go wrong in some history."""
    kinds = KINDS[f"both {variant.way}"]
    try:
        for shape in SHAPES_OF_TWO.values():
            explore(client, shape, "lifo", kinds, sleepers=True, remembers=remembers)
    except WrongHistoryError:
        return True
    return False


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("variant", WITHOUT_LOSSES.values(), ids=WITHOUT_LOSSES)
def test_a_rule_that_is_left_out_is_missed_by_both_or_by_none(
    client: redis.Redis,
    variant: Variant,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    is_used = leave_out(variant, monkeypatch)
    once, again = (is_wrong(client, variant, remembers=remembers) for remembers in (True, False))
    assert is_used()
    assert once == again
    record_property("found", once)


@pytest.mark.parametrize("name", FOUND)
def test_a_rule_that_is_left_out_is_found(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = VARIANTS[name]
    leave_out(variant, monkeypatch)
    assert is_wrong(client, variant, remembers=True)


@pytest.mark.parametrize("module", [leader, both_ways], ids=lambda module: module.__name__)
def test_leaders_keep_all_that_they_remember_in_variables(module: ModuleType) -> None:
    """An iterator of a loop could not be seen, nor what an expression has computed so far."""
    hidden = (
        ast.For,
        ast.ListComp,
        ast.GeneratorExp,
        ast.With,
        ast.BinOp,
        ast.Call,
        ast.Tuple,
        ast.List,
    )
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, hidden):
            inner = [
                each for each in ast.walk(node) if isinstance(each, (ast.Yield, ast.YieldFrom))
            ]
            assert inner == [], f"{module.__name__}, line {node.lineno}"


def test_what_is_of_an_unknown_kind_is_refused(client: redis.Redis) -> None:
    world = World(client, {"a": 1})
    one = world.elect(WRITE_AHEAD[0])
    whole_state(world)
    one.answer = iter(())
    with pytest.raises(TypeError, match="is not known to belong to a state"):
        whole_state(world)


def test_nonces_count_by_what_they_are_equal_to(client: redis.Redis) -> None:
    def state(*values: str) -> bytes:
        client.flushdb()
        client.rpush("values", *values)
        return whole_state(World(client, {}, key="world", base=1))

    assert state("<1>", "once-<2>") == state("<8>", "once-<3>")
    assert state("<1>", "once-<2>") != state("<1>", "once-<1>")
    assert state("<1>", "once-<2>") != state("<1>", "<2>")
