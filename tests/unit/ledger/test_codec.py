"""Values of the ledger as text, errors as values, and the watch over the owner."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_safe_leader._ledger.codec import (
    Claim,
    LastRun,
    UnreadableValueError,
    decode_claim,
    decode_entry,
    decode_run,
    encode_claim,
    encode_entry,
    encode_run,
)
from celery_safe_leader._ledger.errors import (
    FencedError,
    GenerationChangedError,
    LedgerFormatError,
    LedgerOwnedError,
    LedgerPausedError,
)
from celery_safe_leader._ledger.hash_sentinel import (
    SENTINEL,
    ExecutedSteps,
    Pause,
    PauseRecord,
    Sentinel,
    decode_sentinel,
    decode_status,
)
from celery_safe_leader._ledger.owner import OwnerWatch
from celery_safe_leader._ledger.results import Next
from celery_safe_leader.errors import NotLeaderError, SafeLeaderError, StoreRefusedError

MOMENTS = st.integers(-(2**53) + 1, 2**53 - 1)
NAMES = st.text(st.characters())  # lone surrogates included
PRINTS = st.text(st.characters(codec="utf-8"))


@given(NAMES)
def test_no_entry_has_the_name_of_the_sentinel(name: str) -> None:
    raw = encode_entry(name)
    assert decode_entry(raw) == name
    assert raw != SENTINEL


@given(MOMENTS, st.integers(0, 2**63), MOMENTS, PRINTS)
def test_a_run_is_read_as_it_was_written(
    moment: int, count: int, seen: int, fingerprint: str
) -> None:
    run = LastRun(moment, count, seen, fingerprint)
    raw = encode_run(run)
    assert decode_run(raw) == run
    assert raw.split(b" ")[0] == str(moment).encode()


NOON = 1_700_000_000_000_000


def test_an_entry_that_is_set_back_knows_which_moments_come_again() -> None:
    last = LastRun(NOON + 1, 7, NOON - 5, "f")
    assert last.repeats_until == 0
    back = last.set_back(NOON - 3_600_000_000, "g")
    assert (back.moment, back.count, back.fingerprint) == (NOON - 3_600_000_000, 7, "g")
    assert back.repeats_until == NOON + 1_000_000  # rounded up
    assert decode_run(encode_run(back)).repeats_until == back.repeats_until
    # Nothing counts as missed by it, to earlier releases either.
    assert back.seen < back.moment
    # Set back once more, before the first time was made up for.
    again = replace(back, moment=NOON - 1_800_000_000).set_back(NOON - 9_000_000_000, "g")
    assert again.repeats_until == back.repeats_until


@pytest.mark.parametrize("seen", [0, 1, NOON, 2**53 - 1])
def test_when_a_schedule_was_seen_is_not_mistaken_for_that(seen: int) -> None:
    assert LastRun(NOON, 0, seen, "f").repeats_until == 0


@given(MOMENTS, MOMENTS, st.integers(0, 2**63), PRINTS)
def test_a_claim_is_read_as_it_was_written(
    moment: int, first: int, token: int, fingerprint: str
) -> None:
    claim = Claim("e", "some-id", moment, first, fingerprint, token)
    raw = encode_claim(claim)
    assert decode_claim("e", raw) == claim
    assert raw.split(b" ")[0] == str(moment).encode()


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"1", b"1 2 3", b"x 1 2 f", b"1 x 2 f", b"\xff 1 2 f"),
        *(b"01 1 2 f", b"1 00 2 f", b"1 1 -0 f"),
    ],
)
def test_what_is_no_run_is_not_read_as_one(raw: bytes) -> None:
    with pytest.raises(UnreadableValueError, match="is not a run"):
        decode_run(raw)


@pytest.mark.parametrize("raw", [b"", b"1 2 3 id", b"x 1 2 id f", b"1 2 x id f", b"1 2 3 \xff f"])
def test_what_is_no_claim_is_not_read_as_one(raw: bytes) -> None:
    with pytest.raises(UnreadableValueError, match="is not a claim"):
        decode_claim("e", raw)


@pytest.mark.parametrize("moment", [2**53, -(2**53)])
def test_a_moment_that_lua_cannot_compare_is_refused(moment: int) -> None:
    with pytest.raises(ValueError, match=r"below 2\*\*53"):
        encode_run(LastRun(moment, 0, 0, "f"))
    with pytest.raises(ValueError, match=r"below 2\*\*53"):
        encode_claim(Claim("e", "o", moment, 0, "f", 1))


@pytest.mark.parametrize(
    ("raw", "partial", "mark"),
    [
        (b"1 g 17 partial beat", True, ""),
        (b"1 g 17 whole beat", False, ""),
        (b"1 g 17 whole/7f3a beat", False, "7f3a"),
        (b"1 g 17 whole/7f3a/4 beat", False, "7f3a"),
        (b"2 g 17 whole/7f3a/4/1790000000000000 beat", False, "7f3a"),
        (b"2 g 17 partial/-/4/0 beat", True, ""),
    ],
)
def test_a_sentinel_says_whether_the_ledger_is_whole(raw: bytes, partial: bool, mark: str) -> None:
    assert decode_sentinel(raw) == Sentinel("g", 17, partial, "beat", mark, ((17, 17),))


@pytest.mark.parametrize("raw", [b"", b"1 g", b"1 g x whole beat", b"1 g \xb2 whole beat"])
def test_what_is_not_a_sentinel_is_none(raw: bytes) -> None:
    assert decode_sentinel(raw) is None


def test_a_claim_says_of_how_many_messages_its_run_is() -> None:
    for fingerprint, messages in (("f", 1), ("f", 3), ("f x3", 12), ("f x", 1), ("f xy", 1)):
        claim = Claim("e", "o", 5, 4, fingerprint, 1, messages)
        assert decode_claim("e", encode_claim(claim)) == claim


def test_a_sentinel_says_what_was_executed() -> None:
    for generation, mark in (("g", "whole/m"), ("g/4", "partial")):
        sentinel = decode_sentinel(f"1 {generation}+3-5,17-17 17 {mark} beat".encode())
        assert sentinel is not None
        assert (sentinel.generation, sentinel.executed) == ("g", ((3, 5), (17, 17)))


def test_a_status_names_the_pause_and_what_was_executed() -> None:
    assert decode_status(b"OK") == (None, ())
    assert decode_status(b"OK 3-5,7-7") == (None, ((3, 5), (7, 7)))
    assert decode_status(b"OK 1 4 0") == (PauseRecord(4, 0, False), ())
    pause, executed = decode_status(b"OK 2 4 1790000000000000 3-5")
    assert pause is not None
    assert (pause.pause, executed) == (Pause(4, 1790000000000000), ((3, 5),))


def test_executed_steps_are_remembered_in_stretches() -> None:
    steps = ExecutedSteps()
    for ranges in (((1, 1),), ((2, 2),), ((2, 4),), ((9, 9), (12, 13)), ((13, 15),)):
        steps.add(ranges)
    assert [step for step in range(20) if step in steps] == [1, 2, 3, 4, 9, 12, 13, 14, 15]
    steps.add(((3, 3),))
    assert 3 in steps
    for step in range(100, 3_000, 2):
        steps.add(((step, step),))
    assert 3 not in steps
    assert 2_998 in steps


def test_time_goes_forward_from_a_run_to_a_claim() -> None:
    claim = Claim("e", "o", 5, 5, "f", 1)
    assert Next(claim, None).is_later
    assert Next(claim, LastRun(4, 0, 0, "f")).is_later
    assert not Next(claim, LastRun(5, 0, 0, "f")).is_later


ERRORS = [
    FencedError("shop:beat", "host:1:x", "RESIGNED"),
    GenerationChangedError("shop", "runs was lost"),
    LedgerOwnedError("shop", "it is another's", "shop:worker", "host:2:y"),
    LedgerFormatError("shop", "it has format 9"),
    LedgerPausedError("shop", 3, 1_790_000_000_000_000, 1_789_999_000_000_000),
    StoreRefusedError("shop", "a right is missing", True),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_crosses_a_process_border(error: SafeLeaderError) -> None:
    for copy in (pickle.loads(pickle.dumps(error)), type(error)(*error.args)):
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_fenced_leader_is_not_the_leader() -> None:
    error = FencedError("shop:beat", "host:1:x", "SUPERSEDED")
    assert isinstance(error, NotLeaderError)
    assert str(error) == (
        "the ledger of 'shop:beat' refused a write: another candidate holds the lease; "
        "the record names host:1:x"
    )


def test_a_record_is_dead_a_hundredth_after_its_ttl() -> None:
    now = 100.0
    watch = OwnerWatch(2.0, lambda: now)
    nothing = (b"", b"")
    assert watch.proof() == nothing
    watch.follow("worker")
    watch.see(b"7", b"r1", b"10000")
    now = 110.0
    watch.see(b"7", b"r1", b"")
    assert watch.proof() == nothing
    now = 110.2
    assert watch.proof() == (b"7", b"r1")
    watch.see(b"7", b"r2", b"2000")  # a shorter ttl does not shorten the wait
    now = 120.0
    assert watch.proof() == nothing
    watch.follow("beat")
    now = 999.0
    assert watch.proof() == nothing
