"""Scripts of the ledger of which a rule is left out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from celery_safe_leader._ledger import script_calls as calls
from celery_safe_leader._store.lua import Script, load
from tests.model.ledger.faults import LOSSES

__all__ = ["VARIANTS", "Variant", "leave_out"]

OF_THE_LEDGER = LOSSES[:-1]


@dataclass(frozen=True)
class Variant:
    """A change of a script, and the losses that show it."""

    before: str
    after: str
    losses: tuple[str, ...] = ()
    way: str = "write-ahead"


VARIANTS = {
    "no fence": Variant("lease[1] == ARGV[1] and lease[2] == ARGV[2] and lease[3] == '0'", "true"),
    "no generation and step": Variant(
        "if not is_as_left(runs, pending) then",
        "state = parse_sentinel(runs or pending) or\n"
        "    {owner = 'beat', mark = 'm', step = '0', steps = ''}\n  if false then",
        OF_THE_LEDGER,
    ),
    "only the generation of runs": Variant(
        "state = runs == pending and parse_sentinel(runs)",
        "state = parse_sentinel(runs)",
        ("pending",),
    ),
    "no step, so that older copies pass": Variant(
        "return step >= tonumber(ARGV[4]) and step < tonumber(ARGV[5])",
        "return true",
        ("both back",),
    ),
    "published whatever the run is": Variant(
        "elseif stands ~= ARGV[expected + i] then", "elseif false then", way="transactional"
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


def leave_out(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Let scripts of this release be loaded without a rule.

    Returns:
        Whether a script was loaded that has the rule in these words.
    """
    changed = False

    def unsafe(package: str, name: str, *preludes: str, **more: str) -> Script:
        nonlocal changed
        script = load(package, name, *preludes, **more)
        if variant.before not in script.text:
            return script
        changed = True
        text = script.text.replace(variant.before, variant.after)
        return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    monkeypatch.setattr(calls, "load", unsafe)
    return lambda: changed
