"""A ledger with anything in it: every call ends with a result or with an error that has a name."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader.errors import SafeLeaderError
from tests.contract.ledger_helpers import Bench
from tests.support.servers import ExternalServer

NUMBERS = st.sampled_from(
    [b"", b"0", b"-1", b"x", b"nan", b"1e9", b"\xff", b"9007199254740992", b"9" * 5000, b"1.5"]
)
WORDS = st.lists(st.one_of(NUMBERS, st.binary(max_size=8)), max_size=6).map(b" ".join)
SENTINELS = st.builds(
    lambda form, step, state, owner: b"%s g %s %s %s" % (form, step, state, owner),
    st.sampled_from([b"1", b"1", b"2", b"0", b"x", b"9" * 400]),
    NUMBERS,
    st.sampled_from(
        [b"whole", b"partial", b"?", b"whole/m", b"whole/m/3", b"whole//", b"partial/-/3/0"]
        + [b"whole/m/3/%s" % (b"9" * n) for n in (1, 16, 400)]
    ),
    st.sampled_from([b"beat", b"worker", b"\xff\xfe", b"", b"a b"]),
)
FIELDS = st.one_of(
    st.sampled_from([b"e", b"f", SENTINEL, b"\xff", b"", b"celery.backend_cleanup"]),
    st.binary(max_size=8),
)
VALUES = st.one_of(WORDS, SENTINELS, st.binary(max_size=20))
HASH = st.dictionaries(FIELDS, VALUES, max_size=5)
OTHER_TYPES = st.sampled_from([None, None, None, None, None, "string", "list"])
STATE = st.tuples(HASH, HASH, HASH, OTHER_TYPES, VALUES)


def spoil(client: Any, bench: Bench, state: Any, *, keep: bool) -> None:
    """Write over the ledger, or in its place."""
    runs, pending, unknown, other, accepted = state
    names = (bench.names.runs, bench.names.pending, bench.names.unknown)
    for name, fields in zip(names, (runs, pending, unknown), strict=True):
        if not keep:
            client.delete(name)
        if fields:
            client.hset(name, mapping=fields)
    if other:
        client.delete(names[0])
        client.set(names[0], "x") if other == "string" else client.rpush(names[0], "x")
    client.set(bench.names.accepted(bench.claim().occurrence), accepted)


def use(bench: Bench, wanted: list[str]) -> None:
    """Do what a leader does; each call may be refused, in words."""
    ledger = bench.ledger(adopted=False)
    bench.lease()
    claim = bench.claim()
    calls: list[Any] = [
        lambda: ledger.adopt("a", 7),
        lambda: wanted.extend(ledger.load().runs),
        lambda: bench.enrol(ledger, "new"),
        lambda: ledger.write((), (bench.next(),)),
        lambda: ledger.settle((claim,)),
        lambda: ledger.write((bench.commit(),), ()),
        lambda: ledger.adopt("a", 7, restoring=True),
        lambda: ledger.merge({"e": bench.run(3, 2)}, {"e": bench.claim("e", 4)}),
        lambda: ledger.seal(),
        lambda: ledger.forget(("f",), ("e",), grace=5),
        lambda: accept(bench.client, bench.key, claim.occurrence, "n", window=60),
    ]
    said = []
    for call in calls:
        try:
            call()
        except SafeLeaderError as refused:
            said.append(str(refused))
    assert all(words and "\n" not in words for words in said)


def fuzz(server: ExternalServer, examples: int) -> None:
    """Spoil and use."""
    client: Any = server.client(decode_responses=False)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STATE, st.booleans())
    def check(state: Any, keep: bool) -> None:
        bench = Bench(client, f"hostile-{uuid.uuid4().hex}")
        if keep:
            ledger = bench.ledger()
            bench.enrol(ledger, "e", "f")
        spoil(client, bench, state, keep=keep)
        use(bench, [])
        for name in client.scan_iter(f"{{leader:{bench.key}}}*"):
            client.delete(name)

    check()


def test_nothing_in_a_ledger_breaks_a_leader(valkey_server: ExternalServer) -> None:
    fuzz(valkey_server, 150)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_of_very_much_in_a_ledger_breaks_a_leader(valkey_server: ExternalServer) -> None:
    fuzz(valkey_server, 10_000)
