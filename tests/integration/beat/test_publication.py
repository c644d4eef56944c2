"""Runs go out in the script that records them, or by write-ahead: what decides, what fails."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import kombu
import pytest
from celery.beat import BeatLazyFunc, ScheduleEntry, Scheduler
from celery.signals import after_task_publish

from celery_safe_leader._ledger.acceptance import accept
from celery_safe_leader._ledger.codec import Claim, LastRun, encode_claim, encode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._ledger.script_calls import ledger_script
from celery_safe_leader._ledger.way import Way, read_way
from celery_safe_leader._schedules.occurrence_id import occurrence_id
from celery_safe_leader._store.keys import ElectionKeys
from tests.integration.beat.driven_leaders import (
    HAS_BATCHES,
    SCRIPTED,
    TRANSACTIONAL,
    WRITE_AHEAD,
    DrivenLeaders,
    Leader,
)
from tests.integration.publishing.collected import needs_batches
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server
from tests.support.servers.rights import url_of

PUSH = b"leader_publication"
"""In each request that pushes a message of ours."""


@pytest.fixture
def stage(quick_server: Server, key: str) -> Iterator[DrivenLeaders]:
    stage = DrivenLeaders(quick_server, key)
    yield stage
    for close in stage.closing:
        close()


@pytest.fixture
def far(
    quick_server: Server, key: str, start_proxy: Callable[[Server], Proxy]
) -> Iterator[tuple[DrivenLeaders, Proxy]]:
    """Leaders whose ledger's connection goes by way of a proxy."""
    proxy = start_proxy(quick_server)
    stage = DrivenLeaders(quick_server, key, ledger=proxy.url())
    # Else the first request executes nothing.
    stage.client.script_load(ledger_script("publish", "sentinel", "guard", "marks").text)
    yield stage, proxy
    for close in stage.closing:
        close()


def overdue(stage: DrivenLeaders, *names: str, **more: Any) -> dict[str, Any]:
    return {name: stage.entry(name, -1.0, **more) for name in names}


def run_until_sent(leader: Leader, stage: DrivenLeaders, count: int) -> None:
    def sent() -> bool:
        leader.run()
        return len(stage.messages()) >= count

    wait_until(sent, 30)
    leader.run()  # what is left to commit


def ways(stage: DrivenLeaders) -> dict[str, str]:
    """Entry -> the way that its message went."""
    return {sent.headers["kwargsrepr"].split("'")[3]: sent.way for sent in stage.messages()}


def test_a_run_is_published_by_the_script_that_records_it_or_by_write_ahead_with_an_older_kombu(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    leader = stage.leader(stage.app(**overdue(stage, "a", "b", "c")))
    leader.run()
    assert ways(stage) == dict.fromkeys("abc", SCRIPTED)
    assert stage.pending() == set()
    if HAS_BATCHES:
        expected = "are published and recorded in one script"
    else:
        release = f"kombu {kombu.__version__} cannot collect messages, which takes 5.7 or later"
        expected = f"are claimed, published and committed (write-ahead): {release}"
    told = [text for text in caplog.messages if expected in text]
    assert len(told) == 1
    noted = read_way(stage.client, ElectionKeys(stage.key, "beat"))
    assert noted is not None
    assert (noted.token, noted.way) == (1, Way(SCRIPTED))


@pytest.mark.parametrize("way", [TRANSACTIONAL, WRITE_AHEAD])
def test_each_run_is_said_once_as_stock_beat_says_it(
    quick_server: Server, key: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = DrivenLeaders(quick_server, key, way)
    names = ["a", "b", "100 %s"]
    app = stage.app(**overdue(stage, *names))
    caplog.set_level("INFO", "celery.beat")
    stock = Scheduler(app, lazy=True)
    with app.connection_for_write("memory://") as connection:
        for name in names:
            entry = ScheduleEntry(name=name, task="shop.work", schedule=1.0, app=app)
            stock.apply_entry(entry, app.amqp.Producer(connection))
    said_by_stock = [each for each in caplog.record_tuples if each[0] == "celery.beat"]
    caplog.clear()
    run_until_sent(stage.leader(app), stage, len(names))
    said = [each for each in caplog.record_tuples if each[0] == "celery.beat"]
    assert sorted(said) == sorted(said_by_stock)
    for close in stage.closing:
        close()


@needs_batches
@pytest.mark.parametrize("then", ["nothing", "runs lost", "pending lost", "the next leader"])
def test_a_run_whose_reply_was_lost_is_published_once(
    far: tuple[DrivenLeaders, Proxy], then: str
) -> None:
    stage, proxy = far
    entries = overdue(stage, "a", "b")
    leader = stage.leader(stage.app(**entries))
    cut = proxy.cut_after_request(PUSH)
    leader.run()
    assert cut.is_set()
    assert len(stage.messages()) == 2
    if then.endswith("lost"):
        stage.client.delete(stage.names.runs if then == "runs lost" else stage.names.pending)
    if then == "the next leader":
        leader = stage.leader(stage.app(**entries))
    for _ in range(4):
        leader.run()
    assert ways(stage) == dict.fromkeys("ab", TRANSACTIONAL)
    assert len(stage.messages()) == 2
    counts = {name: value.split()[1] for name, value in stage.runs().items() if name in "ab"}
    assert counts == {"a": b"1", "b": b"1"}


@needs_batches
def test_a_run_whose_reply_was_lost_is_done_though_it_would_be_too_late_by_now(
    far: tuple[DrivenLeaders, Proxy],
) -> None:
    stage, proxy = far
    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    cut = proxy.cut_after_request(PUSH)
    leader.run()
    assert cut.is_set()
    leader.scheduler._roster.entries["a"].max_lateness_us = 0
    for _ in range(4):
        leader.run()
    assert len(stage.messages()) == 2
    assert {stage.runs()[name].split()[1] for name in "ab"} == {b"1"}


@needs_batches
def test_who_listens_is_told_once_of_a_run_whose_reply_was_lost(
    far: tuple[DrivenLeaders, Proxy],
) -> None:
    stage, proxy = far
    told: list[str] = []

    def listen(headers: dict[str, Any], **_: Any) -> None:
        told.append(headers["id"])

    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    after_task_publish.connect(listen)
    try:
        proxy.cut_after_request(PUSH)
        leader.run()
        assert told == []
        for _ in range(3):
            leader.run()
    finally:
        after_task_publish.disconnect(listen)
    sent = [each.headers["id"] for each in stage.messages()]
    assert told == sent
    assert {each.way for each in stage.messages()} == {TRANSACTIONAL}


@needs_batches
def test_an_entry_that_changes_while_its_run_has_no_reply_goes_on_from_what_was_done(
    far: tuple[DrivenLeaders, Proxy],
) -> None:
    stage, proxy = far
    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    proxy.cut_after_request(PUSH)
    leader.run()
    leader.app.conf.beat_schedule["a"] = {**stage.entry("a", 0), "schedule": 1800.0}
    for _ in range(4):
        leader.run()
    assert len(stage.messages()) == 2
    assert stage.runs()["a"].split()[1] == b"1"


def pending_claim(stage: DrivenLeaders, leader: Leader, name: str) -> Claim:
    """Return the claim of an entry's next run, as somebody else would write it."""
    entry = leader.scheduler._roster.entries[name]
    moment = entry.next_us() or 0
    occurrence = occurrence_id(stage.key, name, moment)
    return Claim(name, occurrence, moment, moment, entry.rule.fingerprint, 1)


def test_a_run_that_somebody_has_claimed_is_settled(stage: DrivenLeaders) -> None:
    leader = stage.leader(stage.app(a=stage.entry("a", 0.5), b=stage.entry("b", 0.5)))
    leader.run()
    claim = pending_claim(stage, leader, "a")
    stage.client.hset(stage.names.pending, "a", encode_claim(claim))
    leader.run_for(0.6)
    run_until_sent(leader, stage, 2)
    assert ways(stage) == {"a": WRITE_AHEAD, "b": SCRIPTED}
    assert stage.pending() == set()
    # By write-ahead it is met as a claim of this tenure, which it claims itself right then.
    assert stage.again() == (1 if HAS_BATCHES else 0)


def test_a_run_that_is_settled_has_no_effect_beside_the_message_that_was_out_already(
    stage: DrivenLeaders,
) -> None:
    """Who claimed it may have published it, or does so yet, after it was settled."""
    leader = stage.leader(stage.app(a=stage.entry("a", 60), b=stage.entry("b", 60)))
    leader.run()
    claims = [stage.claim(name, -1.0) for name in "ab"]
    leader = stage.leader(leader.app)
    run_until_sent(leader, stage, 2)
    for claim, sent in zip(claims, stage.messages(), strict=True):
        nonces = (sent.headers["leader_publication"], "of whoever claimed it")
        ran = [
            nonce
            for nonce in nonces
            if nonce.startswith("once-")
            or accept(stage.client, stage.key, claim.occurrence, nonce, window=3600).may_run
        ]
        assert len(ran) == 1, ran


def test_an_entry_of_which_the_ledger_knows_more_goes_on_from_there(stage: DrivenLeaders) -> None:
    leader = stage.leader(stage.app(a=stage.entry("a", 60)))
    leader.run()
    known = LastRun(0, 5, 0, "of another schedule")
    stage.client.hset(stage.names.runs, "b", encode_run(known))
    leader.app.conf.beat_schedule["b"] = stage.entry("b", 0.2, 0.2)
    run_until_sent(leader, stage, 1)
    assert int(stage.runs()["b"].split()[1]) > known.count


def test_an_entry_that_stands_elsewhere_in_the_ledger_is_read_again(stage: DrivenLeaders) -> None:
    due_in = 2.0  # time enough to write what another would
    leader = stage.leader(stage.app(a=stage.entry("a", due_in), b=stage.entry("b", due_in)))
    leader.run()
    entry = leader.scheduler._roster.entries["a"]
    claim = pending_claim(stage, leader, "a")
    done = encode_run(entry.last_run_after(claim))
    stage.client.hset(stage.names.runs, "a", done)
    leader.run_for(due_in + 0.1)
    run_until_sent(leader, stage, 1)
    assert set(ways(stage)) == {"b"}
    assert stage.runs()["a"] == done
    assert entry.last_run is not None
    assert encode_run(entry.last_run) == done


def test_an_entry_that_is_gone_from_the_ledger_is_enrolled_anew(stage: DrivenLeaders) -> None:
    leader = stage.leader(stage.app(a=stage.entry("a", 0.5, 0.5)))
    leader.run()
    stage.client.hdel(stage.names.runs, "a")
    leader.run_for(1.2)
    run_until_sent(leader, stage, 1)
    assert "a" in stage.runs()


def test_a_queue_that_refuses_the_message_leaves_the_run_owed(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    run_until_sent(leader, stage, 1)
    stage.client.delete(stage.key)
    stage.client.set(stage.key, "no list")
    leader.app.conf.beat_schedule["b"] = overdue(stage, "b")["b"]
    leader.run()
    told = "The broker does not accept messages: ResponseError('WRONGTYPE"
    if HAS_BATCHES:
        told = f"Redis refused to push the message of entry 'b' to {stage.key} (WRONGTYPE"
    assert told in caplog.text
    assert stage.pending() == {"b"}
    stage.client.delete(stage.key)
    run_until_sent(leader, stage, 1)
    assert ways(stage) == {"b": WRITE_AHEAD}
    assert stage.pending() == set()


@needs_batches
def test_a_user_that_may_not_push_goes_by_write_ahead_for_the_tenure(
    stage: DrivenLeaders, quick_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The keys are allowed, so only the command in the script is refused."""
    caplog.set_level("INFO", "celery_safe_leader.beat")
    quick_server.client().execute_command(
        "ACL", "SETUSER", "no-push", "on", ">pw", "~*", "&*", "+@all", "-lpush"
    )
    stage.ledger = url_of(quick_server, "no-push")
    leader = stage.leader(stage.app(**overdue(stage, "a", "b")))
    run_until_sent(leader, stage, 2)
    leader.app.conf.beat_schedule["c"] = overdue(stage, "c")["c"]
    run_until_sent(leader, stage, 3)
    assert ways(stage) == dict.fromkeys("abc", WRITE_AHEAD)
    [told] = [text for text in caplog.messages if "does not let one script" in text]
    assert "lpush" in told.lower()
    assert "refused to push" not in caplog.text
    assert "(transactional)" not in caplog.text


def test_each_message_goes_the_way_that_fits_it(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    app = stage.app(
        **overdue(stage, "plain"),
        **overdue(stage, "large", args=("x" * 200_000,)),
        **overdue(stage, "broken", args=(object(),)),
    )
    leader = stage.leader(app)
    run_until_sent(leader, stage, 2)
    assert ways(stage) == {"plain": SCRIPTED, "large": WRITE_AHEAD}
    assert stage.pending() == set()
    assert stage.runs()["broken"].split()[1] == b"1"
    [told] = [text for text in caplog.messages if "(write-ahead)" in text]
    which = "Runs of entry 'large'" if HAS_BATCHES else f"Due runs of {stage.key}"
    assert told.startswith(f"{which} are claimed, published and committed")


@pytest.mark.parametrize("loss", ["runs", "pending", "partial"])
def test_a_tenure_that_finds_the_ledger_incomplete_goes_by_write_ahead(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    caplog.set_level("INFO", "celery_safe_leader.beat")
    first = stage.leader(stage.app(rare=stage.entry("rare", 60)))
    first.run()
    if loss == "partial":
        for name in (stage.names.runs, stage.names.pending):
            sentinel: Any = stage.client.hget(name, SENTINEL)
            words = sentinel.split(b" ")
            stage.client.hset(name, SENTINEL, b" ".join((*words[:3], b"partial", *words[4:])))
    else:
        stage.client.delete(getattr(stage.names, loss))
    second = stage.leader(stage.app(**overdue(stage, "a")))
    run_until_sent(second, stage, 1)
    assert ways(stage) == {"a": WRITE_AHEAD}
    assert "(write-ahead): the ledger was found incomplete" in caplog.text
    third = stage.leader(stage.app(**overdue(stage, "b")))
    run_until_sent(third, stage, 2)
    assert ways(stage)["b"] == SCRIPTED


@needs_batches
@pytest.mark.parametrize("whose", ["broker", "ledger"])
def test_after_each_new_connection_it_is_asked_anew_whether_both_are_one_database(
    far: tuple[DrivenLeaders, Proxy], monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    stage, proxy = far
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    run_until_sent(leader, stage, 1)
    asked = 0
    ledger = leader.dispatcher._ledger
    read = ledger.read_probe

    def counted() -> tuple[str, str]:
        nonlocal asked
        asked += 1
        return read()

    monkeypatch.setattr(ledger, "read_probe", counted)
    if whose == "ledger":
        proxy.cut()
    else:
        leader.dispatcher._publisher.forget_declarations()
    leader.app.conf.beat_schedule["b"] = overdue(stage, "b")["b"]
    run_until_sent(leader, stage, 2)
    assert asked
    assert ways(stage) == dict.fromkeys("ab", TRANSACTIONAL)


@needs_batches
def test_a_broker_that_goes_while_messages_are_collected_is_waited_for(
    stage: DrivenLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    run_until_sent(leader, stage, 1)
    publisher = leader.dispatcher._publisher
    collect = publisher.collect

    def fail(*_: object) -> str:
        raise OSError("the broker is gone")

    def collect_on_a_new_connection(*given: Any) -> Any:
        publisher.forget_declarations()
        found = collect(*given)
        publisher.leave_probe("another", "connection", 1)
        monkeypatch.setattr(publisher, "leave_probe", fail)
        return found

    monkeypatch.setattr(publisher, "collect", collect_on_a_new_connection)
    # Lazy arguments are evaluated at the moment itself, so this message is collected late.
    lazy = stage.entry("b", 0.5, args=(BeatLazyFunc(lambda: 1),))
    leader.app.conf.beat_schedule["b"] = lazy
    leader.run_for(0.6)
    assert len(stage.messages()) == 1
    monkeypatch.undo()
    run_until_sent(leader, stage, 2)
    assert ways(stage) == dict.fromkeys("ab", TRANSACTIONAL)


@pytest.mark.parametrize("first", ["nothing", "a request without a reply"])
def test_a_ledger_that_moves_to_another_server_is_noticed_before_a_message_goes_there(
    far: tuple[DrivenLeaders, Proxy], start_server: Callable[..., Server], first: str
) -> None:
    """As after a failover that the ledger's client follows and the broker's does not."""
    stage, proxy = far
    other = start_server()
    soon = {"a": stage.entry("a", 0.5), "b": stage.entry("b", 60)}
    leader = stage.leader(stage.app(**soon, **overdue(stage, "before")))
    run_until_sent(leader, stage, 1)
    if first != "nothing":
        proxy.black_hole()
        wait_until(lambda: (leader.run(), leader.is_unanswered())[1])
    for name in stage.client.keys(f"*{stage.key}*"):
        there: Any = stage.client.dump(name)
        other.client(decode_responses=False).restore(name, 0, there)
    before = other.client(decode_responses=False).llen(stage.key)
    proxy.heal()
    proxy.point_at(other.port)
    leader.run_for(0.6)
    run_until_sent(leader, stage, 2)
    assert ways(stage) == {"before": SCRIPTED, "a": WRITE_AHEAD}
    assert other.client(decode_responses=False).llen(stage.key) == before


@needs_batches
def test_a_broker_that_goes_away_between_its_commands_and_the_script_is_waited_for(
    quick_server: Server,
    key: str,
    start_proxy: Callable[[Server], Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy, stage = start_proxy(quick_server), DrivenLeaders(quick_server, key)
    stage.broker = proxy.url()
    leader = stage.leader(stage.app(a=stage.entry("a", 0.4)))
    leader.run()
    publisher: Any = leader.dispatcher._publisher
    collect = publisher.collect
    went_away: list[bool] = []

    def collect_and_lose(*args: Any) -> Any:
        collected = collect(*args)
        if not went_away:
            proxy.refuse()
            proxy.cut()
            publisher.close()
            publisher.session.number += 1  # as after a connection that was greeted, and lost
            went_away.append(True)
        return collected

    monkeypatch.setattr(publisher, "collect", collect_and_lose)
    monkeypatch.setattr("celery_safe_leader._dispatch.rounds.Rounds._prepare", lambda *_: None)
    wait_until(lambda: (leader.run(), went_away)[1])
    leader.run()
    proxy.accept()
    try:
        run_until_sent(leader, stage, 1)
    finally:
        leader.scheduler.close()
        leader.dispatcher.close()
    assert ways(stage) == {"a": TRANSACTIONAL}


@pytest.mark.parametrize("is_wanted", [True, False])
def test_pythons_garbage_collector_rests_while_runs_are_published(
    stage: DrivenLeaders, is_wanted: bool
) -> None:
    seen: list[bool] = []
    lazy = BeatLazyFunc(lambda: seen.append(gc.isenabled()))
    leader = stage.leader(stage.app(**overdue(stage, "a", args=(lazy,))))
    if not is_wanted:
        gc.disable()
    try:
        run_until_sent(leader, stage, 1)
        assert (seen, gc.isenabled()) == ([False], is_wanted)
    finally:
        gc.enable()


def test_an_entry_whose_value_cannot_be_read_any_more_is_not_asked_for_in_a_loop(
    stage: DrivenLeaders, caplog: pytest.LogCaptureFixture
) -> None:
    leader = stage.leader(stage.app(a=stage.entry("a", 0.5, 0.5), b=stage.entry("b", 60)))
    leader.run()
    stage.client.hset(stage.names.runs, "a", "no run")
    wait_until(lambda: (leader.run(), "cannot be read" in caplog.text)[1])
    pauses = [leader.run() for _ in range(10)]
    assert min(pauses) > 0
    assert stage.messages() == []
    assert caplog.text.count("cannot be read") == 1


@needs_batches
def test_what_was_done_without_a_reply_is_known_in_a_pause_that_loses_the_ledger(
    far: tuple[DrivenLeaders, Proxy],
) -> None:
    stage, proxy = far
    leader = stage.leader(stage.app(**overdue(stage, "a")))
    cut = proxy.cut_after_request(PUSH)
    leader.run()
    assert cut.is_set()
    assert stage.pause(1)
    for _ in range(4):
        leader.run()
    stage.client.delete(stage.names.runs)
    wait_until(lambda: (leader.run(), stage.client.exists(stage.names.runs))[1])
    wait_until(lambda: (leader.run(), stage.pause(1, resumed=True))[1])
    for _ in range(5):
        leader.run()
    assert len(stage.messages()) == 1
    assert stage.runs()["a"].split()[1] == b"1"
