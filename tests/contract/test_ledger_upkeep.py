"""Settling, accepting, merging and forgetting, on each kind of server."""

from __future__ import annotations

import dataclasses

import pytest

from celery_safe_leader._ledger.acceptance import AcceptanceOutcome, accept
from celery_safe_leader._ledger.errors import (
    LedgerFormatError,
)
from celery_safe_leader._ledger.hash_sentinel import SENTINEL, decode_sentinel
from celery_safe_leader._ledger.results import (
    ForgetOutcome,
    Merged,
    SettlementOutcome,
)
from tests.contract.ledger_helpers import Bench
from tests.support.servers import ExternalServer

DAY_MS = 86_400_000


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


# Settle and accept


def test_settling_tells_which_publication_was_accepted(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    ledger.write([], [bench.next("e"), bench.next("f")])
    accept(bench.client, bench.key, bench.claim("e").occurrence, "nonce", window=60)
    claims = [bench.claim("e"), bench.claim("f"), bench.claim("g")]
    settled = ledger.settle(claims)
    accepted, still_open, differs = SettlementOutcome
    assert [one.claim for one in settled] == claims
    assert [one.outcome for one in settled] == [accepted, still_open, differs]
    assert [one.publication for one in settled] == ["nonce", "", ""]
    for entry, marked in (("e", True), ("f", True), ("g", False)):
        mark = bench.names.again(bench.claim(entry).occurrence)
        life: int = bench.client.pttl(mark)
        assert (29 * DAY_MS < life <= 30 * DAY_MS) is marked
    record: int = bench.client.pttl(bench.names.accepted(settled[0].claim.occurrence))
    assert 29 * DAY_MS < record <= 30 * DAY_MS


def test_many_claims_are_settled_in_their_order(bench: Bench) -> None:
    ledger = bench.ledger()
    names = [f"entry {n}" for n in range(90)]
    bench.enrol(ledger, *names)
    for start in (0, 40, 80):
        ledger.write([], [bench.next(name) for name in names[start : start + 40]])
    claims = [bench.claim(name) for name in names]
    accept(bench.client, bench.key, claims[77].occurrence, "nonce", window=60)
    settled = ledger.settle(claims)
    assert [one.claim for one in settled] == claims
    assert [n for n, one in enumerate(settled) if one.publication] == [77]


def test_the_first_publication_runs_and_comes_again_and_no_other_does(bench: Bench) -> None:
    def ask(publication: str) -> tuple[AcceptanceOutcome, bool, str]:
        answer = accept(bench.client, bench.key, "o", publication, window=60)
        return answer.outcome, answer.may_run, answer.publication

    assert ask("one") == (AcceptanceOutcome.FIRST, True, "one")
    assert ask("two") == (AcceptanceOutcome.OTHER, False, "one")
    assert ask("one") == (AcceptanceOutcome.SAME, True, "one")


def test_a_record_lives_for_the_window_and_longer_after_a_second_attempt(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    ledger.settle([bench.claim()])
    lives = []
    for occurrence in ("other", bench.claim().occurrence):
        accept(bench.client, bench.key, occurrence, "n", window=60.5)
        lives.append(bench.client.pttl(bench.names.accepted(occurrence)))
    assert 59_000 < lives[0] <= 60_500
    assert 29 * DAY_MS < lives[1] <= 30 * DAY_MS


# Merge


def test_memory_is_written_back_and_the_later_of_both_stands(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "redis later", "memory later", "same", "claim done", "foreign")
    ledger.write([], [bench.next("claim done", 3), bench.next("foreign", 2)])
    ledger.adopt("a", 7, restoring=True)
    ledger.merge({"redis later": bench.run(9, 9)}, {"redis later": bench.claim("redis later", 10)})
    runs = {
        "redis later": bench.run(5, 5),
        "memory later": bench.run(6, 6),
        "same": bench.run(),
        "claim done": bench.run(3, 1),
        "foreign": bench.run(),
        "lost": bench.run(4, 4),
    }
    pending = {
        "redis later": bench.claim("redis later", 6),
        "lost": bench.claim("lost", 5),
        "memory later": bench.claim("memory later", 7),
    }
    merged = ledger.merge(runs, pending)
    assert merged == [
        Merged("redis later", bench.run(9, 9), bench.claim("redis later", 10)),
        Merged("foreign", bench.run(), bench.claim("foreign", 2)),
    ]
    ledger.seal()
    snapshot = ledger.load()
    assert snapshot.runs == {**runs, "redis later": bench.run(9, 9)}
    assert snapshot.pending == {
        **pending,
        "redis later": bench.claim("redis later", 10),
        "foreign": bench.claim("foreign", 2),
    }
    assert snapshot.done == {}


def test_a_later_run_in_redis_ends_the_claim_of_the_memory(bench: Bench) -> None:
    ledger = bench.ledger()
    ledger.merge({"e": bench.run(5, 5)}, {})
    merged = ledger.merge({"e": bench.run(1, 1)}, {"e": bench.claim(second=2)})
    assert merged == [Merged("e", bench.run(5, 5), None)]
    assert ledger.load().pending == {}


def test_of_two_claims_of_one_moment_the_memory_s_stands(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    ours = bench.claim(token=8)
    assert ledger.merge({"e": bench.run()}, {"e": ours}) == []
    assert ledger.load().pending == {"e": ours}


def test_what_redis_knows_later_must_be_readable(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.client.hset(bench.names.runs, "e", f"{bench.run(9).moment} x")
    with pytest.raises(LedgerFormatError, match="entry 'e'"):
        ledger.merge({"e": bench.run()}, {})


# Forget


def test_an_entry_is_forgotten_after_the_grace_period(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f", "known")
    ledger.write([], [bench.next("f")])
    unknown = ["e", "f"]
    assert set(ledger.forget(unknown, grace=50).values()) == {ForgetOutcome.MARKED}
    cursor, marked = ledger.unknown()
    assert (cursor, set(marked)) == (0, {"e", "f"})
    assert set(ledger.forget(unknown, grace=50).values()) == {ForgetOutcome.WAITING}
    for name in unknown:  # by the server's clock a hundred seconds ago
        bench.client.hset(bench.names.unknown, name, str(bench.start))
    assert ledger.forget(unknown, grace=1000)["e"] is ForgetOutcome.WAITING
    outcomes = ledger.forget(unknown, grace=50)
    assert outcomes == {"e": ForgetOutcome.FORGOTTEN, "f": ForgetOutcome.FORGOTTEN_PENDING}
    snapshot = ledger.load()
    assert set(snapshot.runs) == {"known"}
    assert snapshot.pending == {}
    assert ledger.unknown() == (0, {})


def test_since_when_entries_are_unknown_is_read_of_those_that_are(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f", "g", "known")
    before = ledger.write((), ()).now
    ledger.forget(["e", "f", "g"], grace=50)
    bench.client.hset(bench.names.unknown, "f", "yesterday")
    found = ledger.unknown_since(["e", "f", "known", "nowhere"])
    assert before <= found["e"] <= ledger.write((), ()).now
    assert found == {"e": found["e"], "f": 2**53}
    assert ledger.unknown_since([]) == {}


def test_two_releases_in_turns_do_not_forget_each_other_s_entries(bench: Bench) -> None:
    old = bench.ledger()
    bench.enrol(old, "only old", "only new")
    for _ in range(3):
        old.forget(["only new"], ["only old"], grace=50)
        bench.client.hset(bench.names.unknown, "only new", str(bench.start))
        # The new release leads before the old one looks again, and knows its entry.
        new = bench.ledger()
        new.forget(["only old"], ["only new"], grace=50)
        old = bench.ledger()
    assert old.load().runs.keys() == {"only old", "only new"}


def test_a_mark_that_cannot_be_right_is_made_anew(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    bench.client.hset(bench.names.unknown, "e", "yesterday")
    bench.client.hset(bench.names.unknown, "f", str(bench.start + 10**12))
    outcomes = ledger.forget(["e", "f"], grace=1)
    assert set(outcomes.values()) == {ForgetOutcome.MARKED}


def test_the_sentinel_of_each_hash_is_the_same(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    raw = bench.client.hget(bench.names.runs, SENTINEL)
    assert isinstance(raw, bytes)
    found = decode_sentinel(raw)
    assert found is not None
    assert (found.step, found.partial, found.owner) == (1, False, "beat")
    assert bench.client.hget(bench.names.pending, SENTINEL) == raw


def test_a_claim_keeps_all_that_it_says(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    item = bench.next()
    claim = dataclasses.replace(item.claim, first=item.claim.moment - 5, fingerprint="ü x  y")
    ledger.write([], [dataclasses.replace(item, claim=claim)])
    assert ledger.load().pending == {"e": claim}
