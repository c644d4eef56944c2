"""Claims with a version, a rule of overlap or several messages; what settling makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._ledger.codec import LastRun
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.publications import OverlapPolicy, OverlapRule
from celery_safe_leader._ledger.results import Next, SettlementOutcome
from tests.contract.ledger_helpers import SECOND, Bench
from tests.support.servers import ExternalServer

SKIP = OverlapRule(OverlapPolicy.SKIP, 60_000)
QUEUE_ONE = OverlapRule(OverlapPolicy.QUEUE_ONE, 60_000)


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


@pytest.fixture
def ledger(bench: Bench) -> Ledger:
    ledger = bench.ledger()
    bench.enrol(ledger, *"abcd")
    return ledger


def claims(ledger: Ledger, *nexts: Next) -> list[str]:
    return [outcome.name for outcome in ledger.write([], nexts).claims]


def ruled(bench: Bench, entry: str, rule: OverlapRule | None, second: int = 1) -> Next:
    after = bench.run(second - 1, second - 1)
    return Next(bench.claim(entry, second), after, rule)


def mark(bench: Bench, entry: str) -> list[str]:
    raw = bench.client.hget(bench.names.running, entry)
    return raw.decode().split(" ") if isinstance(raw, bytes) else []


def test_an_entry_that_was_stored_anew_is_not_claimed(bench: Bench, ledger: Ledger) -> None:
    bench.client.hset(bench.names.versions, mapping={"a": "v1", "b": "v2"})
    versions = dict(zip("abcd", ("v1", "v1", "v1", ""), strict=True))
    nexts = [dataclasses.replace(bench.next(e), version=v) for e, v in versions.items()]
    assert claims(ledger, *nexts) == ["CLAIMED", "CHANGED", "CHANGED", "CLAIMED"]
    assert set(ledger.load().pending) == {"a", "d"}


def test_a_claim_waits_for_the_run_before_or_is_skipped(bench: Bench, ledger: Ledger) -> None:
    rules = {"a": SKIP, "b": QUEUE_ONE, "c": None}
    first = [ruled(bench, entry, rule) for entry, rule in rules.items()]
    assert set(claims(ledger, *first)) == {"CLAIMED"}
    occurrence, until = mark(bench, "a")
    assert occurrence == bench.claim("a").occurrence
    assert abs(int(until) - bench.start - 160 * SECOND) < 50 * SECOND
    assert mark(bench, "c") == []
    second = [ruled(bench, entry, rule, 2) for entry, rule in rules.items()]
    written = ledger.write([bench.commit(entry) for entry in rules], second)
    assert [each.name for each in written.claims] == ["OVERLAPS", "OVERLAPS", "CLAIMED"]
    skipped = LastRun(second[0].claim.moment, 1, bench.start, "f")
    assert second[0].skipped == skipped
    runs = ledger.load().runs
    assert (runs["a"], runs["b"]) == (skipped, bench.run(1, 1))
    assert claims(ledger, *second) == ["OVERLAPS", "OVERLAPS", "CLAIMED"]
    assert ledger.load().runs == runs


def test_a_mark_that_has_run_out_or_is_its_own_holds_up_nothing(
    bench: Bench, ledger: Ledger
) -> None:
    past, future = bench.start, bench.start + 900 * SECOND
    own = bench.claim("c").occurrence
    marks: dict[Any, Any] = {
        "a": f"o {past} x:{past}",
        "b": f"o {past} x:{future}",
        "c": f"{own} {future}",
    }
    bench.client.hset(bench.names.running, mapping={**marks, "d": "o"})
    nexts = [ruled(bench, entry, QUEUE_ONE) for entry in "abcd"]
    assert claims(ledger, *nexts) == ["CLAIMED", "OVERLAPS", "CLAIMED", "CLAIMED"]


def test_a_run_that_was_given_up_leaves_no_mark(bench: Bench, ledger: Ledger) -> None:
    assert claims(ledger, *(ruled(bench, e, SKIP) for e in "abc")) == ["CLAIMED"] * 3
    bench.client.hset(bench.names.running, "b", "another 9")
    gave_up = [dataclasses.replace(bench.commit(entry), unmark=True) for entry in "ab"]
    ledger.write([*gave_up, bench.commit("c")], [])
    assert mark(bench, "a") == []
    assert mark(bench, "b") == ["another", "9"]
    assert mark(bench, "c")[0] == bench.claim("c").occurrence


def test_what_is_attempted_again_waits_anew(bench: Bench, ledger: Ledger) -> None:
    assert set(claims(ledger, *(ruled(bench, e, SKIP) for e in "abc"))) == {"CLAIMED"}
    for entry in "ab":
        occurrence = bench.claim(entry).occurrence
        bench.client.hset(bench.names.running, entry, f"{occurrence} 5 attempt:6")
    accept(bench.client, bench.key, bench.claim("b").occurrence, "n1", window=60)
    before = mark(bench, "c")
    settled = ledger.settle([bench.claim(e) for e in "abc"], {"a": SKIP, "b": SKIP})
    assert [each.outcome.name for each in settled] == ["OPEN", "ACCEPTED", "OPEN"]
    occurrence, until, attempt = mark(bench, "a")
    assert (occurrence, attempt) == (bench.claim("a").occurrence, "attempt:6")
    assert int(until) > bench.start + 100 * SECOND
    assert mark(bench, "b")[1] == "5"
    assert mark(bench, "c") == before


def test_a_run_of_several_messages_is_not_settled_by_a_record(bench: Bench, ledger: Ledger) -> None:
    several = dataclasses.replace(bench.claim("a"), messages=3)
    one = bench.claim("b")
    nexts = [Next(claim, bench.run()) for claim in (several, one)]
    assert claims(ledger, *nexts) == ["CLAIMED", "CLAIMED"]
    assert ledger.load().pending == {"a": several, "b": one}
    for claim in (several, one):
        accept(bench.client, bench.key, claim.occurrence, "n1", window=60)
    first, second = ledger.settle([several, one])
    assert (first.outcome, first.publication) == (SettlementOutcome.OPEN, "")
    assert (second.outcome, second.publication) == (SettlementOutcome.ACCEPTED, "n1")
