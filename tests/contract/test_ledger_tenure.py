"""Adopting and loading, on each kind of server."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from celery_safe_leader._ledger.errors import (
    GenerationChangedError,
    LedgerFormatError,
    LedgerOwnedError,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.ledger import Ledger
from celery_safe_leader._ledger.results import (
    Commit,
    Condition,
    ForgetOutcome,
)
from celery_safe_leader._store.keys import ElectionKeys
from tests.contract.ledger_helpers import Bench
from tests.support.servers import ExternalServer

DAY_MS = 86_400_000


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


# Adopt


def test_a_new_ledger_is_empty_and_whole(bench: Bench) -> None:
    ledger = bench.ledger(adopted=False)
    bench.lease()
    assert ledger.adopt("a", 7).condition is Condition.NEW
    again = ledger.adopt("a", 7)
    assert (again.condition, again.entries, again.pending) == (Condition.WHOLE, 0, 0)


def test_the_next_leader_finds_what_the_last_one_left_and_shuts_it_out(bench: Bench) -> None:
    old = bench.ledger()
    bench.enrol(old, "e", "f")
    old.write([], [bench.next()])
    bench.lease(holder="b", token=8)
    new = bench.ledger(adopted=False)
    adoption = new.adopt("b", 8)
    assert (adoption.condition, adoption.entries, adoption.pending) == (Condition.WHOLE, 2, 1)
    # Even if the record named the old leader again.
    bench.lease(holder="a", token=7)
    with pytest.raises(GenerationChangedError):
        old.write([], [])


@pytest.mark.parametrize("lost", ["runs", "pending"])
def test_the_next_leader_is_told_that_a_hash_was_lost(bench: Bench, lost: str) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    bench.client.delete(getattr(bench.names, lost))
    assert ledger.adopt("a", 7).condition is Condition.TORN


def test_the_next_leader_is_told_that_nobody_finished_writing_back(bench: Bench) -> None:
    ledger = bench.ledger()
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"e": bench.run()}, {})
    assert ledger.adopt("a", 7).condition is Condition.PARTIAL
    ledger.adopt("a", 7, restoring=True)
    ledger.seal()
    assert ledger.adopt("a", 7).condition is Condition.WHOLE


def test_a_newer_format_is_refused_with_a_message_and_left_alone(bench: Bench) -> None:
    bench.ledger()
    newer = b"3 g 0 whole beat and what not"
    bench.client.hset(bench.names.runs, SENTINEL, newer)
    with pytest.raises(LedgerFormatError, match="has format 3, but this release reads formats up"):
        bench.ledger()
    assert bench.client.hget(bench.names.runs, SENTINEL) == newer


@pytest.mark.parametrize("sentinel", [b"x", b"1 only three fields", b"1"])
def test_a_sentinel_that_nobody_writes_is_refused(bench: Bench, sentinel: bytes) -> None:
    bench.ledger()
    bench.client.hset(bench.names.pending, SENTINEL, sentinel)
    with pytest.raises(LedgerFormatError, match="which no release of celery-safe-leader writes"):
        bench.ledger()


# Owner


def refused(ledger: Ledger) -> LedgerOwnedError:
    with pytest.raises(LedgerOwnedError) as caught:
        ledger.adopt("a", 7)
    return caught.value


def test_another_election_of_the_key_may_not_claim(bench: Bench) -> None:
    bench.ledger("worker")
    before = bench.state()
    bench.lease()
    error = refused(bench.ledger(adopted=False))
    assert (error.election, error.holder) == (f"{bench.key}:worker", "a")
    assert "Stand-alone beats and `worker -B` are mixed" in str(error)
    assert bench.state() == before


@pytest.mark.parametrize("way", ["resigned", "vacant", "absent"])
def test_a_ledger_whose_election_has_no_leader_is_free(bench: Bench, way: str) -> None:
    worker = bench.ledger("worker")
    if way == "absent":
        bench.client.delete(ElectionKeys(bench.key, "worker").lease)
    else:
        bench.lease("worker", **({"resigned": 1} if way == "resigned" else {"holder": ""}))
    beat = bench.ledger()
    assert beat.write([], []).now > bench.start
    bench.lease("worker", holder="a", resigned=0)
    with pytest.raises(GenerationChangedError):
        worker.write([], [])
    assert refused_role(bench, "worker") == f"{bench.key}:beat"


def refused_role(bench: Bench, role: str) -> str:
    return refused(bench.ledger(role, adopted=False)).election


def test_a_ledger_is_free_once_its_leaders_record_stood_still(bench: Bench) -> None:
    bench.ledger("worker")  # ttl 2 s
    bench.lease()
    beat = bench.ledger(adopted=False)
    refused(beat)
    bench.time = 2.01
    refused(beat)
    bench.lease("worker", renewal="r2")
    bench.time = 2.03
    refused(beat)
    bench.time = 4.04
    refused(beat)
    bench.time = 4.06
    beat.adopt("a", 7)
    assert beat.write([], []).now > bench.start


def test_a_record_that_was_renewed_since_the_last_look_is_not_dead(bench: Bench) -> None:
    bench.ledger("worker")
    bench.lease()
    beat = bench.ledger(adopted=False)
    refused(beat)
    bench.time = 100
    bench.lease("worker", renewal="r2")
    refused(beat)


def test_a_longer_ttl_in_the_record_is_waited_for(bench: Bench) -> None:
    bench.ledger("worker")
    bench.lease("worker", ttl=30_000)
    bench.lease()
    beat = bench.ledger(adopted=False)
    refused(beat)
    bench.time = 30.2
    refused(beat)
    bench.time = 30.4
    beat.adopt("a", 7)


# Load


def calls_of(bench: Bench) -> Counter[str]:
    stats = bench.client.info("commandstats")
    return Counter({name.split("_", 1)[1]: values["calls"] for name, values in stats.items()})


def test_a_large_ledger_is_loaded_whole_in_small_commands(bench: Bench) -> None:
    ledger = bench.ledger()
    names = [f"entry {n}" for n in range(3_000)]
    bench.enrol(ledger, *names)
    before = calls_of(bench)
    assert ledger.load().runs.keys() == set(names)
    after = calls_of(bench)
    assert after["hscan"] - before["hscan"] > 10
    assert after["hgetall"] == before["hgetall"]


def test_what_cannot_be_read_is_named_and_stays(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "good")
    bench.client.hset(bench.names.runs, "bad", "tomorrow")
    bench.client.hset(bench.names.pending, "worse", "1 2")
    snapshot = ledger.load()
    assert snapshot.runs.keys() == {"good"}
    assert snapshot.unreadable == {"bad": b"tomorrow", "worse": b"1 2"}
    outcomes = ledger.forget(["bad", "worse"], grace=0)
    assert set(outcomes.values()) == {ForgetOutcome.FORGOTTEN, ForgetOutcome.FORGOTTEN_PENDING}
    assert ledger.load().unreadable == {}


def test_a_claim_that_is_done_is_not_pending(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    copy = bench.client.dump(bench.names.pending)
    ledger.write([bench.commit()], [])
    assert copy is not None
    bench.client.restore(bench.names.pending, 0, copy, replace=True)
    adoption = ledger.adopt("a", 7)
    assert adoption.condition is Condition.TORN
    snapshot = ledger.load()
    assert (snapshot.pending, snapshot.done) == ({}, {"e": bench.claim()})
    ledger.write([Commit(bench.claim(), snapshot.runs["e"])], [])
    snapshot = ledger.load()
    assert (snapshot.done, snapshot.runs) == ({}, {"e": bench.run(1, 1)})


def test_a_loss_while_it_is_loaded_is_not_taken_for_the_truth(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    scan = bench.client.hscan

    def scan_and_lose(name: str, *args: Any, **options: Any) -> Any:
        bench.client.delete(bench.names.runs)
        return scan(name, *args, **options)

    bench.client.hscan = scan_and_lose  # type: ignore[assignment, method-assign]
    with pytest.raises(GenerationChangedError, match="runs was lost"):
        ledger.load()
