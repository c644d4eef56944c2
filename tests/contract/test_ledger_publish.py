"""Publication: a message is in its queue exactly when its run is recorded, on each server."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import redis

from celery_safe_leader._ledger.errors import (
    FencedError,
    GenerationChangedError,
    LedgerPausedError,
)
from celery_safe_leader._ledger.ledger import BATCH, Ledger
from celery_safe_leader._ledger.publications import (
    LARGEST_BATCH,
    Batch,
    OverlapPolicy,
    OverlapRule,
    Publication,
    Published,
    Push,
)
from celery_safe_leader._ledger.results import ClaimOutcome, SettlementOutcome
from celery_safe_leader._ledger.script_calls import ledger_script
from celery_safe_leader.errors import (
    LifecycleError,
    SafeLeaderError,
    StoreRefusedError,
    StoreUnavailableError,
)
from tests.contract.ledger_helpers import SECOND, Bench
from tests.model.ledger.clients import FaultyClient
from tests.support.servers import ExternalServer


def yes() -> bool:
    return True


@pytest.fixture
def bench(shared_server: ExternalServer, key: str) -> Bench:
    return Bench(shared_server.client(decode_responses=False), key)


def publish(ledger: Ledger, *publications: Publication) -> Published:
    """Publish one batch, which is answered."""
    answers = ledger.publish([Batch(publications)], yes)
    assert answers is not None
    (answer,) = answers
    assert isinstance(answer, Published), answer
    return answer


def names(answer: Published) -> list[str]:
    return [outcome.name for outcome in answer.outcomes]


def queued(bench: Bench, queue: bytes | None = None) -> list[bytes]:
    """Messages in the order in which workers get them."""
    found: list[bytes] = bench.client.lrange(queue or bench.queue(), 0, -1)  # type: ignore[assignment]
    return found[::-1]


def test_a_message_is_queued_and_its_run_recorded(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    answer = publish(ledger, bench.publication())
    assert (names(answer), answer.refusals) == (["PUBLISHED"], {})
    assert abs(answer.now - bench.start - 100 * SECOND) < 60 * SECOND
    assert queued(bench) == [b"e 1"]
    assert ledger.read(["e"]) == {"e": (bench.run(1, 1), None)}


def test_messages_keep_their_order_over_several_queues(bench: Bench) -> None:
    ledger = bench.ledger()
    entries = [f"entry {n}" for n in range(BATCH)]
    bench.enrol(ledger, *entries)
    other = bench.queue("other")
    batch = [
        bench.publication(entry, queue=other if n % 5 == 4 else None)
        for n, entry in enumerate(entries)
    ]
    assert set(names(publish(ledger, *batch))) == {"PUBLISHED"}
    sent = [f"{entry} 1".encode() for entry in entries]
    assert queued(bench) == [message for n, message in enumerate(sent) if n % 5 != 4]
    assert queued(bench, other) == sent[4::5]


def test_an_entry_that_the_ledger_does_not_know_is_published(bench: Bench) -> None:
    ledger = bench.ledger()
    new = dataclasses.replace(bench.publication(), after=None)
    assert names(publish(ledger, new)) == ["PUBLISHED"]
    assert ledger.load().runs == {"e": bench.run(1, 1)}


def test_outcomes_come_in_the_order_of_the_publications(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, *"abcdefg")
    ledger.write([], [bench.next("b")])
    bench.client.set(bench.queue("string"), "x")
    batch = [
        bench.publication("a"),
        bench.publication("b", 2),
        bench.publication("c", 2, after=1, count=1),
        bench.publication("d", 900),
        bench.publication("e", 0),
        bench.publication("f", queue=bench.queue("string")),
        bench.publication("g"),
    ]
    answer = publish(ledger, *batch)
    assert names(answer) == [
        *("PUBLISHED", "CLAIMED", "DIFFERS", "AHEAD", "NOT_LATER", "REFUSED", "PUBLISHED")
    ]
    assert list(answer.refusals) == ["f"]
    assert "WRONGTYPE" in answer.refusals["f"]
    assert queued(bench) == [b"a 1", b"g 1"]
    moved = {entry for entry, run in ledger.load().runs.items() if run != bench.run()}
    assert moved == {"a", "g"}


def test_a_clock_that_is_known_to_be_ahead_may_be(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    batch = Batch((bench.publication(second=160),))
    assert names_of(ledger.publish([batch], yes)) == [["AHEAD"]]
    assert names_of(ledger.publish([batch], yes, ahead=600.0)) == [["PUBLISHED"]]


def names_of(answers: list[Published | SafeLeaderError] | None) -> list[list[str]]:
    assert answers is not None
    return [names(each) if isinstance(each, Published) else [repr(each)] for each in answers]


def test_a_run_without_a_message_is_recorded(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c")
    skipped = dataclasses.replace(bench.publication("b"), push=None)
    answer = publish(ledger, bench.publication("a"), skipped, bench.publication("c"))
    assert names(answer) == ["PUBLISHED"] * 3
    assert queued(bench) == [b"a 1", b"c 1"]
    assert set(ledger.load().runs.values()) == {bench.run(1, 1)}


def test_a_repeated_batch_queues_nothing_twice(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b")
    batch = [bench.publication("a"), bench.publication("b")]
    for _ in range(3):
        assert names(publish(ledger, *batch)) == ["PUBLISHED"] * 2
    assert queued(bench) == [b"a 1", b"b 1"]


def test_a_key_expires_only_if_its_queue_took_the_message(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b")
    foreign = bench.queue("string")
    bench.client.set(foreign, "x")
    batch = [
        bench.publication("a", expiries=((bench.queue(), 60_000),)),
        bench.publication("b", queue=foreign, expiries=((foreign, 60_000),)),
    ]
    assert names(publish(ledger, *batch)) == ["PUBLISHED", "REFUSED"]
    assert 0 < bench.client.pttl(bench.queue()) <= 60_000
    assert bench.client.pttl(foreign) == -1


def test_several_batches_go_in_one_write(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c")
    asked: list[bool] = []

    def gate() -> bool:
        asked.append(bench.client.exists(bench.queue()) == 0)
        return True

    batches = [Batch((bench.publication(entry),)) for entry in "abc"]
    before = bench.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert names_of(ledger.publish(batches, gate)) == [["PUBLISHED"]] * 3
    after = bench.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert set(asked) == {True}
    assert after - before == 3
    assert queued(bench) == [b"a 1", b"b 1", b"c 1"]


def test_nothing_is_sent_if_the_gate_is_closed(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = bench.state()
    batch = Batch((bench.publication(),))
    assert ledger.publish([batch], lambda: False) is None
    assert (bench.state(), queued(bench), batch.steps) == (before, [], [])
    assert names_of(ledger.publish([batch], yes)) == [["PUBLISHED"]]


def test_a_server_that_forgot_the_script_is_sent_it(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b")
    batches = [Batch((bench.publication(entry),)) for entry in "ab"]
    gates = iter([True, False])
    bench.client.script_flush()
    assert ledger.publish(batches, lambda: next(gates)) is None
    assert queued(bench) == []
    assert names_of(ledger.publish(batches, yes)) == [["PUBLISHED"]] * 2


@pytest.mark.parametrize(
    "change", [{"holder": "b"}, {"token": 8}, {"resigned": 1}, {"holder": ""}], ids=str
)
def test_a_leader_without_the_lease_publishes_nothing(bench: Bench, change: Any) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = bench.state()
    bench.lease(**change)
    (answer,) = ledger.publish([Batch((bench.publication(),))], yes) or []
    assert isinstance(answer, FencedError)
    assert (bench.state(), queued(bench)) == (before, [])


@pytest.mark.parametrize("lost", ["runs", "pending"])
def test_a_lost_hash_refuses_each_batch(bench: Bench, lost: str) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b")
    bench.client.delete(getattr(bench.names, lost))
    before = bench.state()
    answers = ledger.publish([Batch((bench.publication(entry),)) for entry in "ab"], yes) or []
    assert [type(each) for each in answers] == [GenerationChangedError] * 2
    assert (bench.state(), queued(bench)) == (before, [])


def test_a_batch_has_a_size(bench: Bench) -> None:
    ledger = bench.ledger()
    one = bench.publication()
    assert one.push is not None
    large = Push(one.push.queue, b"x" * (LARGEST_BATCH + 1))
    batches = [
        tuple(bench.publication(f"e{n}") for n in range(BATCH + 1)),
        (one, one),
        (dataclasses.replace(one, push=large),),
    ]
    for batch in batches:
        with pytest.raises(LifecycleError, match="is not allowed"):
            ledger.publish([Batch(batch)], yes)
    assert queued(bench) == []
    assert ledger.publish([], yes) == []


def test_an_empty_batch_is_answered(bench: Bench) -> None:
    ledger = bench.ledger()
    answer = publish(ledger)
    assert answer.outcomes == ()
    assert names(publish(ledger, bench.publication(second=0))) == ["NOT_LATER"]


# Lost replies, and what shows that a batch was executed


class LosesReplies:
    """Loses a number of the next replies to a client, after the scripts were executed."""

    def __init__(self, client: redis.Redis) -> None:
        self.pool: Any = client.connection_pool
        self.lose = 0

    def __enter__(self) -> LosesReplies:
        original = self.original = self.pool.get_connection

        def get_connection(*args: Any, **options: Any) -> Any:
            connection = original(*args, **options)
            read = connection.read_response

            def read_response(*args: Any, **options: Any) -> Any:
                reply = read(*args, **options)
                if self.lose:
                    self.lose -= 1
                    raise redis.TimeoutError("reply lost")
                return reply

            connection.read_response = read_response
            return connection

        self.pool.get_connection = get_connection
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.get_connection = self.original
        self.pool.disconnect()


def unanswered(
    bench: Bench, ledger: Ledger, *batches: Batch, client: Any = None, fault: str = "reply"
) -> None:
    """Publish batches whose replies are lost."""
    bench.client.script_load(ledger_script("publish", "sentinel", "guard", "marks").text)
    if client is None:
        with LosesReplies(bench.client) as replies:
            replies.lose = 1
            answers = ledger.publish(batches, yes) or []
    else:
        client.fault = fault
        answers = ledger.publish(batches, yes) or []
    assert [type(each) for each in answers] == [StoreUnavailableError] * len(batches)


def test_a_batch_without_a_reply_is_repeated_under_a_new_step(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b")
    batches = [Batch((bench.publication(entry),)) for entry in "ab"]
    unanswered(bench, ledger, *batches)
    steps = [step for batch in batches for step in batch.steps]
    assert names_of(ledger.publish(batches, yes)) == [["PUBLISHED"]] * 2
    assert set(steps).isdisjoint(batch.steps[1] for batch in batches)
    assert queued(bench) == [b"a 1", b"b 1"]


@pytest.mark.parametrize("lost", ["runs", "pending"])
def test_what_is_left_shows_that_a_batch_was_executed(bench: Bench, lost: str) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    batch = Batch((bench.publication(),))
    unanswered(bench, ledger, batch)
    bench.client.delete(getattr(bench.names, lost))
    ledger.adopt("a", 7, restoring=True)
    if lost == "runs":
        assert ledger.was_executed(batch)
    else:
        # What it recorded is there; so is what it refused, if it did.
        assert not ledger.was_executed(batch)
        (merged,) = ledger.merge({"e": bench.run()}, {})
        assert merged.run == bench.run(1, 1)


def test_an_adoption_without_a_reply_hides_nothing(bench: Bench) -> None:
    client = FaultyClient(bench.client, [])
    ledger = bench.ledger(client=client)
    bench.enrol(ledger, "e")
    batch = Batch((bench.publication(),))
    unanswered(bench, ledger, batch, client=client)
    bench.client.delete(bench.names.runs)
    client.fault = "reply"
    with pytest.raises(StoreUnavailableError):
        ledger.adopt("a", 7, restoring=True)
    ledger.adopt("a", 7, restoring=True)
    assert ledger.was_executed(batch)


def test_what_one_batch_did_does_not_pass_for_another(bench: Bench) -> None:
    client = FaultyClient(bench.client, [])
    ledger = bench.ledger(client=client)
    bench.enrol(ledger, "a", "b")
    batches = [Batch((bench.publication(entry),)) for entry in "ab"]
    # The first is executed each time, under a later step than that of the second's first attempt.
    for _ in range(3):
        unanswered(bench, ledger, *batches, client=client, fault="cut")
    assert queued(bench) == [b"a 1"]
    bench.client.delete(bench.names.runs)
    ledger.adopt("a", 7, restoring=True)
    assert [ledger.was_executed(batch) for batch in batches] == [True, False]


def test_a_later_attempt_does_not_hide_what_an_earlier_one_did(bench: Bench) -> None:
    client = FaultyClient(bench.client, [])
    ledger = bench.ledger(client=client)
    bench.enrol(ledger, "a", "b", "c")
    batches = [Batch((bench.publication(entry),)) for entry in "abc"]
    unanswered(bench, ledger, *batches, client=client)
    for _ in range(2):
        unanswered(bench, ledger, *batches, client=client, fault="cut")
    bench.client.delete(bench.names.runs)
    ledger.adopt("a", 7, restoring=True)
    assert all(map(ledger.was_executed, batches))


def test_a_reply_shows_what_was_executed_before(bench: Bench) -> None:
    client = FaultyClient(bench.client, [])
    ledger = bench.ledger(client=client)
    bench.enrol(ledger, "a", "b")
    first, second = (Batch((bench.publication(entry),)) for entry in "ab")
    unanswered(bench, ledger, first, second, client=client)
    assert names_of(ledger.publish([first], yes)) == [["PUBLISHED"]]
    ledger.write([], [])  # nothing of the earlier steps is in the ledger any more
    bench.client.delete(bench.names.runs)
    ledger.adopt("a", 7, restoring=True)
    assert ledger.was_executed(second)


def test_the_first_attempt_counts_not_the_last(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    batch = Batch((bench.publication(),))
    unanswered(bench, ledger, batch)
    bench.client.delete(bench.names.runs)
    (answer,) = ledger.publish([batch], yes) or []
    assert isinstance(answer, GenerationChangedError)
    ledger.adopt("a", 7, restoring=True)
    assert ledger.was_executed(batch)


def test_a_batch_that_was_refused_was_not_executed(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    batch = Batch((bench.publication(),))
    bench.client.delete(bench.names.runs)
    ledger.publish([batch], yes)
    ledger.adopt("a", 7, restoring=True)
    assert not ledger.was_executed(batch)
    ledger.merge({"e": bench.run()}, {})
    ledger.seal()
    assert names_of(ledger.publish([batch], yes)) == [["PUBLISHED"]]


def test_a_batch_that_was_not_sent_was_not_executed(bench: Bench) -> None:
    ledger = bench.ledger()
    batch = Batch((bench.publication(),))
    ledger.adopt("a", 7, restoring=True)
    assert not ledger.was_executed(batch)


def test_a_server_that_is_away_is_not_written_to(bench: Bench) -> None:
    ledger = bench.ledger()
    batch = Batch((bench.publication(),))
    settings = bench.client.connection_pool.connection_kwargs
    port, settings["port"] = settings["port"], 1
    bench.client.connection_pool.reset()
    (answer,) = ledger.publish([batch], yes) or []
    settings["port"] = port
    bench.client.connection_pool.reset()
    assert isinstance(answer, StoreUnavailableError)
    assert batch.steps == []


# Versions, overlap, the pause


def test_an_entry_that_was_stored_anew_is_not_published(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c", "d")
    bench.client.hset(bench.names.versions, mapping={"a": "v1", "b": "v2"})
    batch = [
        dataclasses.replace(bench.publication(entry), version=version)
        for entry, version in zip("abcd", ["v1", "v1", "v1", ""], strict=True)
    ]
    assert names(publish(ledger, *batch)) == ["PUBLISHED", "CHANGED", "CHANGED", "PUBLISHED"]
    assert queued(bench) == [b"a 1", b"d 1"]


SKIP = OverlapRule(OverlapPolicy.SKIP, 60_000)
QUEUE_ONE = OverlapRule(OverlapPolicy.QUEUE_ONE, 60_000)


def test_a_run_waits_for_the_one_before_or_is_skipped(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "s", "q", "free")
    rules = {"s": SKIP, "q": QUEUE_ONE, "free": None}

    def batch(second: int, after: int, count: int) -> list[Publication]:
        return [
            dataclasses.replace(bench.publication(e, second, after=after, count=count), overlap=r)
            for e, r in rules.items()
        ]

    assert set(names(publish(ledger, *batch(1, 0, 0)))) == {"PUBLISHED"}
    assert names(publish(ledger, *batch(2, 1, 1))) == ["OVERLAPS", "OVERLAPS", "PUBLISHED"]
    assert queued(bench) == [b"s 1", b"q 1", b"free 1", b"free 2"]
    runs = ledger.load().runs
    # What is skipped is not counted.
    assert runs == {"s": bench.run(2, 1), "q": bench.run(1, 1), "free": bench.run(2, 2)}
    # Nor is it taken for published if it is asked for again.
    assert names(publish(ledger, *batch(2, 1, 1)[:2])) == ["OVERLAPS", "OVERLAPS"]
    assert ledger.load().runs == runs
    # An attempt that runs, and ends in time.
    claim = bench.claim("q")
    for ends, outcome in ((bench.start + 900 * SECOND, "OVERLAPS"), (bench.start, "PUBLISHED")):
        bench.client.hset(bench.names.running, "q", f"{claim.occurrence} 0 a1:{ends}")
        assert names(publish(ledger, batch(2, 1, 1)[1])) == [outcome]


def test_a_message_that_was_refused_leaves_no_mark(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    bench.client.set(bench.queue(), "x")
    run = dataclasses.replace(bench.publication(), overlap=SKIP)
    assert names(publish(ledger, run)) == ["REFUSED"]
    assert not bench.client.exists(bench.names.running)


def test_a_pause_stops_publications_and_claims_but_no_commits(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e", "f")
    ledger.write([], [bench.next("f")])
    bench.pause(3, 0)
    before = bench.state()
    (answer,) = ledger.publish([Batch((bench.publication(),))], yes) or []
    assert isinstance(answer, LedgerPausedError)
    assert (answer.number, answer.until_us) == (3, 0)
    assert (bench.state(), queued(bench)) == (before, [])
    assert ledger.pause is not None
    written = ledger.write([bench.commit("f")], [bench.next("e")])
    assert [each.name for each in written.commits] == ["COMMITTED"]
    assert written.claims == (ClaimOutcome.PAUSED,)
    assert bench.sentinel().startswith(b"2 ")


def test_what_is_pending_is_settled_in_a_pause(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    ledger.write([], [bench.next()])
    bench.pause(3, 0)
    (settlement,) = ledger.settle([bench.claim()])
    assert settlement.outcome is SettlementOutcome.OPEN
    assert bench.client.exists(bench.names.again(bench.claim().occurrence))


def test_a_pause_that_has_run_out_is_over(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    bench.pause(3, bench.start)
    assert names(publish(ledger, bench.publication())) == ["PUBLISHED"]
    assert ledger.pause is None
    assert bench.sentinel().startswith(b"1 ")
    assert b"/3 " in bench.sentinel()


# Rights


def test_a_missing_right_is_told_apart(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "e")
    before = bench.state()
    user = f"user-{bench.key}"
    pattern = f"~{{leader:{bench.key}}}*"
    bench.client.acl_setuser(
        user, enabled=True, passwords=["+p"], keys=[pattern], categories=["+@all"], reset=True
    )
    settings = bench.client.connection_pool.connection_kwargs
    limited = redis.Redis(host=settings["host"], port=settings["port"], username=user, password="p")
    try:
        for keys, commands in (([pattern], ["+@all"]), (["~*"], ["+@all", "-lpush"])):
            bench.client.execute_command(
                "ACL", "SETUSER", user, "resetkeys", *keys, "-@all", *commands
            )
            client, ledger._session.client = ledger._session.client, limited
            (answer,) = ledger.publish([Batch((bench.publication(),))], yes) or []
            ledger._session.client = client
            if isinstance(answer, Published):
                assert names(answer) == ["REFUSED"]
                assert "lpush" in answer.refusals["e"] or "command" in answer.refusals["e"]
            else:
                assert isinstance(answer, StoreRefusedError), answer
                assert answer.is_missing_right
            assert queued(bench) == []
            assert bench.state()[0][b"e"] == before[0][b"e"]
    finally:
        limited.close()
        bench.client.acl_deluser(user)


# Reading


def test_entries_are_read_as_they_stand(bench: Bench) -> None:
    ledger = bench.ledger()
    bench.enrol(ledger, "a", "b", "c")
    ledger.write([], [bench.next("b")])
    bench.client.hset(bench.names.runs, "c", "tomorrow")
    found = ledger.read(["a", "b", "c", "d", *map(str, range(400))])
    assert found.pop("a") == (bench.run(), None)
    assert found.pop("b") == (bench.run(), bench.claim("b"))
    assert "c" not in found
    assert set(found.values()) == {(None, None)}
    assert len(found) == 401


def test_a_probe_is_read_over_connections_that_are_counted(
    bench: Bench, shared_server: ExternalServer
) -> None:
    client = shared_server.client(decode_responses=False)
    ledger = Ledger(client, bench.key, "beat", ttl=2, clock=lambda: 0.0)
    run_id = bench.client.info("server")["run_id"]
    assert ledger.connection_number == 0
    assert ledger.read_probe() == ("", run_id)
    bench.client.set(ledger.probe_key, "n1", ex=60)
    assert ledger.read_probe() == ("n1", run_id)
    assert ledger.probe_key == f"{{leader:{bench.key}}}:beat:probe"
    assert ledger.connection_number == 1
    client.connection_pool.disconnect()
    ledger.read_probe()
    assert ledger.connection_number == 2
