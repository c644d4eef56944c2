"""Claims and commits, on each kind of server."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from celery_safe_leader._ledger import ledger_session, packed_commands
from celery_safe_leader._ledger.errors import FencedError, GenerationChangedError
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.results import (
    ClaimOutcome,
    Commit,
    CommitOutcome,
    Enrolment,
    EnrolmentOutcome,
)
from celery_safe_leader._store.lua import Script
from celery_safe_leader.errors import LifecycleError, StoreRefusedError, StoreUnavailableError
from tests.contract.ledger_helpers import SECOND, Bench
from tests.support.servers import ExternalServer

CLAIMED, COMMITTED = ClaimOutcome.CLAIMED, CommitOutcome.COMMITTED
NAMES = ["e", "", "a b", "{x}", "two\nlines", "ünï", "\ud800", "x" * 1024, "ledger", "0"]


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


def test_an_occurrence_is_claimed_and_committed(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    assert ledger.write([], [bench.next()]).claims == (CLAIMED,)
    assert ledger.load().pending == {"e": bench.claim()}
    assert ledger.write([bench.commit()], []).commits == (COMMITTED,)
    snapshot = ledger.load()
    assert snapshot.pending == {}
    assert snapshot.runs == {"e": bench.run(1, 1)}


def test_one_write_commits_and_claims_the_same_entry_in_one_command(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    before = bench.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    written = ledger.write([bench.commit()], [bench.next(second=2, after=1, count=1)])
    after = bench.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert (written.commits, written.claims, after - before) == ((COMMITTED,), (CLAIMED,), 1)
    assert ledger.load().pending == {"e": bench.claim(second=2)}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_text_is_the_name_of_an_entry(bench: Bench, name: str) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, name)
    assert ledger.write([], [bench.next(name)]).claims == (CLAIMED,)
    assert ledger.write([bench.commit(name)], []).commits == (COMMITTED,)
    assert ledger.load().runs == {name: bench.run(1, 1)}


@pytest.mark.parametrize("name", ["a{b", "a}b", "", "x" * 500, "ü \n"])
def test_any_text_is_a_key_and_all_names_share_a_slot(
    shared_server: ExternalServer, key: str, name: str
) -> None:
    bench = Bench(shared_server.client(decode_responses=False), key + name)
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    assert ledger.write([], [bench.next()]).claims == (CLAIMED,)
    names = bench.names
    keys = (names.runs, names.pending, names.unknown, names.accepted("o"), names.again("o"))
    slots = {key_slot(one.encode()) for one in keys}
    assert len(slots) == 1


def test_a_repeated_write_has_the_outcome_of_the_first(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    for _ in range(2):
        assert ledger.write([], [bench.next()]).claims == (CLAIMED,)
    batch = ([bench.commit()], [bench.next(second=2, after=1, count=1)])
    for _ in range(2):
        written = ledger.write(*batch)
        assert (written.commits, written.claims) == ((COMMITTED,), (CLAIMED,))


def test_an_entry_has_one_claim_at_a_time(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    assert ledger.write([], [bench.next(second=2)]).claims == (ClaimOutcome.PENDING,)
    assert ledger.load().pending == {"e": bench.claim()}


def test_a_claim_goes_forward_from_the_run_in_the_ledger(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    wrong = [bench.next(after=0, count=9), bench.next(second=0), bench.next(second=-1)]
    outcomes = [ledger.write([], [item]).claims[0] for item in wrong]
    assert outcomes == [ClaimOutcome.DIFFERS, ClaimOutcome.NOT_LATER, ClaimOutcome.NOT_LATER]
    unknown = ledger.write([], [bench.next("nobody")]).claims
    assert unknown == (ClaimOutcome.DIFFERS,)
    assert ledger.load().pending == {}


def test_outcomes_come_in_the_order_of_the_claims(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c", "d")
    ledger.write([], [bench.next("c")])
    items = [bench.next("a"), bench.next("b", 0), bench.next("c", 2), bench.next("d", 900)]
    names = [outcome.name for outcome in ledger.write([], items).claims]
    assert names == ["CLAIMED", "NOT_LATER", "PENDING", "AHEAD"]
    assert ledger.load().pending.keys() == {"a", "c"}


def test_a_claim_may_be_ahead_of_redis_by_five_seconds_and_no_more(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    now = ledger.write([], []).now
    assert abs(now - bench.start - 100 * SECOND) < 60 * SECOND
    near = dataclasses.replace(bench.claim("e"), moment=now + 4 * SECOND)
    far = dataclasses.replace(bench.claim("f"), moment=now + 60 * SECOND)
    items = [dataclasses.replace(bench.next(c.entry), claim=c) for c in (near, far)]
    assert ledger.write([], items).claims == (CLAIMED, ClaimOutcome.AHEAD)


def test_a_commit_of_another_claim_changes_nothing(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next(second=2)])
    before = ledger.load()
    assert ledger.write([bench.commit(second=1)], []).commits == (CommitOutcome.DIFFERS,)
    after = ledger.load()
    assert (after.runs, after.pending) == (before.runs, before.pending)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"holder": "b"}, "SUPERSEDED"),
        ({"token": 8}, "SUPERSEDED"),
        ({"resigned": 1}, "RESIGNED"),
        ({"holder": ""}, "VACANT"),
    ],
)
def test_a_leader_that_does_not_hold_the_lease_changes_nothing(
    bench: Bench, change: dict[str, Any], reason: str
) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    ledger.write([], [bench.next("f")])
    before = bench.state()
    bench.lease(**change)
    item = Enrolment("g", None, bench.run())
    attempts = [
        lambda: ledger.write([bench.commit("f")], [bench.next("e")]),
        lambda: ledger.enrol([item]),
        lambda: ledger.settle([bench.claim("f")]),
        lambda: ledger.merge({"e": bench.run(9)}, {}),
        lambda: ledger.forget(["e"], grace=0),
        lambda: ledger.adopt("a", 7),
        ledger.load,
        ledger.seal,
    ]
    for attempt in attempts:
        with pytest.raises(FencedError) as caught:
            attempt()
        assert caught.value.reason == reason
    assert bench.state() == before


def test_a_lost_lease_record_says_that_it_may_come_back(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.client.delete(bench.client.keys(f"*{bench.key}*lease")[0])
    with pytest.raises(FencedError, match="the next renewal may restore it"):
        ledger.write([], [])


@pytest.mark.parametrize("lost", [("runs",), ("pending",), ("runs", "pending")])
def test_a_lost_hash_refuses_the_next_write(bench: Bench, lost: tuple[str, ...]) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    for name in lost:
        bench.client.delete(getattr(bench.names, name))
    before = bench.state()
    with pytest.raises(GenerationChangedError, match=" and ".join(lost)):
        ledger.write([], [bench.next()])
    assert bench.state() == before


@pytest.mark.parametrize("back", [("runs",), ("pending",), ("runs", "pending")])
def test_a_hash_that_was_set_back_refuses_the_next_write(
    bench: Bench, back: tuple[str, ...]
) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    copies = {name: bench.client.dump(getattr(bench.names, name)) for name in back}
    ledger.write([], [bench.next()])
    for name, copy in copies.items():
        assert copy is not None
        bench.client.restore(getattr(bench.names, name), 0, copy, replace=True)
    before = bench.state()
    with pytest.raises(GenerationChangedError, match="not as this leader left it"):
        ledger.write([bench.commit()], [])
    assert bench.state() == before


def test_a_request_that_arrives_after_later_ones_changes_nothing(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    late = bench.ledger(adopted=False)
    # The same leader, whose request was on its way for a long time.
    vars(late._session).update(vars(ledger._session))
    ledger.write([], [])
    before = bench.state()
    with pytest.raises(GenerationChangedError):
        late.write([], [bench.next()])
    assert bench.state() == before


def test_an_unanswered_write_that_was_executed_does_not_look_like_a_loss(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")

    class LosesReply:
        def execute_command(self, *args: object) -> object:
            bench.client.execute_command(*args)
            raise redis.TimeoutError("reply lost")

    client, ledger._session.client = ledger._session.client, LosesReply()  # type: ignore[assignment]
    with pytest.raises(StoreUnavailableError):
        ledger.write([], [bench.next()])
    ledger._session.client = client
    assert ledger.write([], [bench.next()]).claims == (CLAIMED,)


def test_enrolling_compares_with_what_is_there(bench: Bench) -> None:
    ledger = bench.ledger()
    first, second = bench.run(), bench.run(5, 3)
    items = [
        Enrolment("e", None, first),
        Enrolment("e", None, first),
        Enrolment("e", None, second),
        Enrolment("e", first, second),
    ]
    names = [ledger.enrol([item])[0] for item in items]
    wrote, differs = EnrolmentOutcome.WRITTEN, EnrolmentOutcome.DIFFERS
    assert names == [wrote, wrote, differs, wrote]
    assert ledger.load().runs == {"e": second}


def test_a_run_in_the_future_is_reported_and_can_be_brought_back(bench: Bench) -> None:
    ledger = bench.ledger()
    ahead = bench.run(365 * 86_400, 4)
    ledger.enrol([Enrolment("e", None, ahead), Enrolment("f", None, bench.run())])
    snapshot = ledger.load()
    assert snapshot.ahead == {"e"}
    ledger.enrol([Enrolment("e", ahead, bench.run(0, 4))])
    assert ledger.load().ahead == frozenset()
    assert ledger.write([], [bench.next("e", 1, 0, 4)]).claims == (CLAIMED,)


def test_a_write_has_a_size(bench: Bench) -> None:
    ledger = bench.ledger()
    names = [f"entry {n}" for n in range(2 * BATCH + 1)]
    bench.enrol(ledger, *names)
    items = [bench.next(name) for name in names]
    assert set(ledger.write([], items[:-1]).claims) == {CLAIMED}
    with pytest.raises(LifecycleError, match=f"at most {2 * BATCH} together"):
        ledger.write([], items)


def test_a_claim_is_taken_back_by_recording_the_run_before_it(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = ledger.load()
    ledger.write([], [bench.next()])
    for _ in range(2):
        back = Commit(bench.claim(), bench.run())
        assert ledger.write([back], []).commits == (COMMITTED,)
        assert (ledger.load().runs, ledger.load().pending) == (before.runs, {})
    assert ledger.write([], [bench.next()]).claims == (CLAIMED,)


def test_nothing_is_written_before_the_ledger_is_adopted(bench: Bench) -> None:
    ledger: Ledger = bench.ledger(adopted=False)
    with pytest.raises(LifecycleError, match="adopt"):
        ledger.write([], [])


def test_a_server_that_forgot_the_scripts_is_sent_them(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    bench.client.script_flush()
    assert ledger.write([], [bench.next()]).claims == (CLAIMED,)


def test_a_key_of_another_type_is_named(bench: Bench) -> None:
    bench.client.set(bench.names.runs, "x")
    with pytest.raises(StoreRefusedError, match="WRONGTYPE"):
        bench.ledger()


def test_an_enrolment_that_finds_another_run_says_so(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    other = Enrolment("e", bench.run(5), bench.run(6))
    assert ledger.enrol([other]) == [EnrolmentOutcome.DIFFERS]
    assert ledger.read(["e"]) == {"e": (bench.run(), None)}


MANY = [f"e{number}" for number in range(300)]
"""More entries than are enrolled in one write."""


def test_many_are_enrolled_by_a_server_that_does_not_know_the_script(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = bench.ledger()
    guarded = ledger_session._guarded

    def unknown(name: str) -> Script:
        script = guarded(name)
        if name != "enrol":
            return script
        text = f"-- {bench.key}\n{script.text}"
        return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    monkeypatch.setattr(ledger_session, "_guarded", unknown)
    bench.enrol(ledger, *MANY)
    assert ledger.load().runs == dict.fromkeys(MANY, bench.run())


def test_the_next_are_encoded_before_the_reply_for_those_before_is_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, done = bench.ledger(), []
    bench.enrol(ledger, "warm")
    encode, reply = Ledger._enrolling, packed_commands._reply

    def encoded(self: Ledger, batch: Any, anew: bool) -> Any:
        done.append("encoded")
        return encode(self, batch, anew)

    def read(connection: Any) -> Any:
        done.append("read")
        return reply(connection)

    monkeypatch.setattr(Ledger, "_enrolling", encoded)
    monkeypatch.setattr(packed_commands, "_reply", read)
    bench.enrol(ledger, *MANY)
    assert done == ["encoded"] * 9 + ["read"] * 9


def test_enrolling_many_raises_what_comes_of_the_first_that_is_refused(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, *MANY[:40])
    bench.lease(token=8)
    before = bench.state()
    with pytest.raises(FencedError):
        bench.enrol(ledger, *MANY[40:])
    assert bench.state() == before


def test_enrolling_many_without_an_answer_may_be_repeated(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = bench.ledger()
    reply, lost = packed_commands._reply, iter([redis.ConnectionError("gone")])

    def lose(connection: Any) -> Any:
        for error in lost:
            raise error
        return reply(connection)

    monkeypatch.setattr(packed_commands, "_reply", lose)
    with pytest.raises(StoreUnavailableError):
        bench.enrol(ledger, *MANY)
    bench.enrol(ledger, *MANY)
    assert ledger.load().runs == dict.fromkeys(MANY, bench.run())
