"""What each rule of the ledger's scripts is for: without it, some history goes wrong.

Each variant takes one rule away; random histories on a real server must find out. Some rules are
not here since others stand in for them, which is their purpose: that a settled record is prolonged,
that a claim does not replace another one, that no script publishes what is claimed, that settling
asks before it publishes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tests.model.ledger.faults import WAYS, History
from tests.model.ledger.variants import VARIANTS, Variant, leave_out
from tests.support.servers import Server

SEEDS = range(20_290, 22_290)
RARE = {"second attempts not marked"}
"""What few histories find out, so that it takes long."""


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server("valkey", unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


def goes_wrong(client: redis.Redis, seed: int, variant: Variant) -> bool:
    history = History(client, seed, WAYS[variant.way], variant.losses)
    history.world.most_steps = 500
    try:
        return bool(history.run())
    except (AssertionError, KeyError):
        return True  # a leader found itself in a state that cannot be


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(variant, id=name, marks=[pytest.mark.long] * (name in RARE))
        for name, variant in VARIANTS.items()
    ],
)
def test_histories_find_out(
    client: redis.Redis, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_used = leave_out(variant, monkeypatch)
    found = any(goes_wrong(client, seed, variant) for seed in SEEDS)
    assert is_used(), "no script has this rule in these words: the variant is out of date"
    assert found, f"{len(SEEDS)} histories went well without this rule"
