"""What each rule of the ledger's scripts is for: without it, some history goes wrong.

Each variant takes one rule away; random histories on a real server must find out. Some rules are
not here since others stand in for them, which is their purpose: that a settled record is prolonged,
that a claim does not replace another one, that settling asks before it publishes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from celery_safe_leader._ledger import script_calls as calls
from celery_safe_leader._store.lua import Script, load
from tests.model.ledger.faults import LOSSES, History
from tests.support.servers import Server

SEEDS = range(20_290, 20_690)
OF_THE_LEDGER = LOSSES[:-1]


@dataclass(frozen=True)
class Variant:
    """A change of a script, and the losses that show it."""

    before: str
    after: str
    losses: tuple[str, ...] = ()


VARIANTS = {
    "no fence": Variant("lease[1] == ARGV[1] and lease[2] == ARGV[2] and lease[3] == '0'", "true"),
    "no generation and step": Variant(
        "not (at_step(runs) and at_step(pending))", "false", OF_THE_LEDGER
    ),
    "only the generation of runs": Variant(
        "not (at_step(runs) and at_step(pending))", "not at_step(runs)", ("pending",)
    ),
    "no step, so that older copies pass": Variant(
        "return step >= tonumber(ARGV[4]) and step < tonumber(ARGV[5])",
        "return true",
        ("runs back", "pending back", "both back"),
    ),
    "acceptance by anybody": Variant("recorded == ARGV[1] and 'S' or 'O'", "'S'"),
    "second attempts not marked": Variant(
        "redis.call('SET', KEYS[3 + 2 * n], '1', 'PX', ARGV[7])", ""
    ),
    "settled as if accepted": Variant("nonce and 'A' or 'N'", "'A'"),
    "memory is not written back": Variant(
        "if run and run ~= runs[n] then", "if false then", OF_THE_LEDGER
    ),
    "claims are not written back": Variant(
        "if claim and claim ~= claims[n] then", "if false then", OF_THE_LEDGER
    ),
}


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with Server("valkey", unix_socket=True) as server:
        client = redis.Redis.from_url(server.unix_url)
        yield client
        client.close()


def goes_wrong(client: redis.Redis, seed: int, losses: tuple[str, ...]) -> bool:
    history = History(client, seed, losses)
    history.world.most_steps = 500
    try:
        return bool(history.run())
    except (AssertionError, KeyError):
        return True  # a leader found itself in a state that cannot be


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_histories_find_out(
    client: redis.Redis, variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = False

    def unsafe(package: str, name: str, *preludes: str) -> Script:
        nonlocal changed
        script = load(package, name, *preludes)
        if variant.before not in script.text:
            return script
        changed = True
        text = script.text.replace(variant.before, variant.after)
        return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    monkeypatch.setattr(calls, "load", unsafe)
    found = any(goes_wrong(client, seed, variant.losses) for seed in SEEDS)
    assert changed, "no script has this rule in these words: the variant is out of date"
    assert found, f"{len(SEEDS)} histories went well without this rule"
