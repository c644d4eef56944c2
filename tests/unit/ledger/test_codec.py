"""Values of the ledger as text, errors as values, and the watch over the owner."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_safe_leader._ledger.codec import (
    SENTINEL,
    Claim,
    LastRun,
    Sentinel,
    UnreadableValueError,
    decode_claim,
    decode_entry,
    decode_run,
    decode_sentinel,
    encode_claim,
    encode_entry,
    encode_run,
    encode_sentinel,
)
from celery_safe_leader._ledger.errors import (
    FencedError,
    GenerationChangedError,
    LedgerFormatError,
    LedgerOwnedError,
)
from celery_safe_leader._ledger.owner import OwnerWatch
from celery_safe_leader._ledger.results import Next
from celery_safe_leader.errors import NotLeaderError, SafeLeaderError

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


@given(MOMENTS, MOMENTS, st.integers(0, 2**63), PRINTS)
def test_a_claim_is_read_as_it_was_written(
    moment: int, first: int, token: int, fingerprint: str
) -> None:
    claim = Claim("e", "some-id", moment, first, fingerprint, token)
    raw = encode_claim(claim)
    assert decode_claim("e", raw) == claim
    assert raw.split(b" ")[0] == str(moment).encode()


@pytest.mark.parametrize("raw", [b"", b"1", b"1 2 3", b"x 1 2 f", b"1 x 2 f", b"\xff 1 2 f"])
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


@pytest.mark.parametrize("owner", ["beat", "", "a role"])
def test_a_sentinel_is_read_as_it_was_written(owner: str) -> None:
    sentinel = Sentinel("g", 17, True, owner)
    assert decode_sentinel(encode_sentinel(sentinel)) == sentinel
    assert decode_sentinel(b"") is None


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
