"""Leaders that cannot work let others try; alone, they go on trying."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import celery
import pytest
from celery.beat import BeatLazyFunc

from celery_safe_leader._dispatch.dispatcher import Dispatcher
from celery_safe_leader._dispatch.rounds import Rounds
from celery_safe_leader._ledger.codec import decode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader.beat import LeaderScheduler
from tests.integration.beat.driven_leaders import WRITE_AHEAD, DrivenLeaders, Queue
from tests.support.celery.inbox import Inbox, gaps
from tests.support.celery.services import BeatService, shop
from tests.support.network.proxy import Proxy
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

LOGGER = "celery_safe_leader.beat"
STEP = 0.2
SECONDS = 2.0
"""The patience of these beats: a step that a busy machine holds up does not last as long."""
TICK = {"task": "shop.work", "schedule": STEP, "kwargs": {"entry": "tick"}}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(LeaderScheduler, "patience", SECONDS)
    caplog.set_level(logging.INFO, LOGGER)


def broker_of(server: Server) -> str:
    """Return another database: on the ledger's own, no run needs a connection to the broker."""
    return server.url.removesuffix("/0") + "/1"


@pytest.fixture
def inbox(quick_server: Server, key: str) -> Iterator[Inbox]:
    with Inbox(broker_of(quick_server), queue=key) as inbox:
        yield inbox


@pytest.fixture
def link(quick_server: Server) -> Iterator[Proxy]:
    """The way of one beat, or of all, to the broker."""
    with Proxy(quick_server.port) as link:
        yield link


@pytest.fixture
def history(quick_server: Server, key: str) -> Callable[[str], list[str]]:
    """Return the reasons in the election's history, of one kind of event."""

    def read(event: str) -> list[str]:
        raw: Any = quick_server.client().xrange(ElectionKeys(key, "beat").history)
        return [fields["reason"] for _, fields in raw if fields["event"] == event]

    return read


def beat(
    broker: str, election: str, key: str, lead: Callable[[BeatService], None] | None = None
) -> BeatService:
    service = BeatService(shop(broker, key, {"tick": TICK}, leader_url=election))
    if lead:
        lead(service)
    return service


class Nap:
    """Hangs in the next step of one dispatcher, until it is woken."""

    def __init__(self, stuck: Dispatcher | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asleep, self.woken, self.ended = (threading.Event() for _ in range(3))
        run = Dispatcher.run

        def hang(dispatcher: Dispatcher, tenure: Any) -> float:
            if dispatcher is not stuck:
                return run(dispatcher, tenure)
            self.asleep.set()
            assert self.woken.wait(60)
            try:
                return run(dispatcher, tenure)
            finally:
                self.ended.set()

        monkeypatch.setattr(Dispatcher, "run", hang)


def close_link(link: Proxy) -> None:
    link.refuse()
    link.cut()


def test_a_broker_that_only_the_leader_cannot_reach_makes_another_lead(
    quick_server: Server,
    inbox: Inbox,
    link: Proxy,
    key: str,
    history: Callable[[str], list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, broker = quick_server.url, broker_of(quick_server)
    with beat(link.url(db=1), url, key, BeatService.wait_leading), beat(broker, url, key) as other:
        inbox.wait_for(3)
        close_link(link)
        before = time.monotonic()
        other.wait_leading()
        inbox.wait_for(5, since=before)
        assert history("resigned") == ["stood_down:broker"]
        told = f"could not publish anything for {SECONDS:g} s (cause: broker). It stands down"
        assert told in caplog.text
        # Longer than the patience: the one that cannot work does not come back.
        time.sleep(2 * SECONDS)
        assert other.leads
    assert gaps(inbox.sent(), STEP) == []


def test_a_beat_that_is_alone_goes_on_when_its_broker_is_back(
    quick_server: Server,
    inbox: Inbox,
    link: Proxy,
    key: str,
    history: Callable[[str], list[str]],
) -> None:
    with beat(link.url(db=1), quick_server.url, key) as alone:
        inbox.wait_for(3)
        close_link(link)
        wait_until(lambda: len(history("resigned")) == 2, 30, "it stands down twice")
        alone.wait_leading()
        since = time.monotonic()
        link.accept()
        inbox.wait_for(5, since=since)
        assert gaps(inbox.sent(), STEP) == []
        assert not alone.scheduler._patience.is_in_doubt
        wait_until(lambda: not alone.scheduler._goes_last, 30)
        leader: Any = alone.scheduler._membership
        assert leader._leader._candidate._election.observation.campaign_later == 0.0


def test_an_outage_that_all_share_costs_no_run_and_leadership_goes_round_ever_more_slowly(
    quick_server: Server,
    inbox: Inbox,
    link: Proxy,
    key: str,
    history: Callable[[str], list[str]],
) -> None:
    url = quick_server.url
    with beat(link.url(db=1), url, key), beat(link.url(db=1), url, key):
        inbox.wait_for(3)
        close_link(link)
        began = time.monotonic()
        # Both have tried as long as their patience lasts, then twice as long.
        wait_until(lambda: len(history("resigned")) == 4, 60, "both stand down twice")
        assert time.monotonic() - began > 2 * (SECONDS + 2 * SECONDS)
        since = time.monotonic()
        link.accept()
        inbox.wait_for(5, since=since)
        assert gaps(inbox.sent(), STEP) == []
        elections = len(history("elected"))
        inbox.wait_for(10, since=time.monotonic())
        assert len(history("elected")) == elections


def test_a_ledger_that_refuses_only_the_leader_makes_another_lead(
    quick_server: Server, inbox: Inbox, key: str, history: Callable[[str], list[str]]
) -> None:
    client: Any = quick_server.client()
    name = f"only-elections-{key}"
    keys = f"~{{leader:{key}}}:beat:*"
    client.execute_command("ACL", "SETUSER", name, "on", ">pw", "resetkeys", keys, "+@all")
    url, broker = quick_server.url, broker_of(quick_server)
    lame = f"redis://{name}:pw@{quick_server.host}:{quick_server.port}/0"
    try:
        with beat(broker, lame, key, BeatService.wait_leading), beat(broker, url, key) as other:
            other.wait_leading()
            inbox.wait_for(5)
            assert history("resigned") == ["stood_down:ledger"]
    finally:
        client.execute_command("ACL", "DELUSER", name)


def test_an_older_beat_leaves_the_lead_to_one_that_reads_the_newer_ledger(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    history: Callable[[str], list[str]],
) -> None:
    # A newer release has led, and written a format that the beat that is elected cannot read.
    names = LedgerKeys(key)
    client: Any = quick_server.client(decode_responses=False)
    for name in (names.runs, names.pending):
        client.hset(name, SENTINEL, b"3 generation 1 whole beat 1")
    url, broker = quick_server.url, broker_of(quick_server)
    with beat(broker, url, key, BeatService.wait_leading), beat(broker, url, key) as other:
        # The other one is of the newer release: it can read what is there, as nothing is left.
        wait_until(lambda: history("resigned") == ["stood_down:ledger"], 30, "it stands down")
        client.delete(names.runs, names.pending)
        other.wait_leading()
        inbox.wait_for(3)


def test_an_endless_error_in_one_process_makes_another_lead(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    history: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, broker = quick_server.url, broker_of(quick_server)
    with beat(broker, url, key, BeatService.wait_leading) as sick, beat(broker, url, key) as other:
        inbox.wait_for(3)
        dispatcher = sick.scheduler._dispatcher
        assert dispatcher is not None

        def fail(tenure: Any) -> float:
            raise ZeroDivisionError

        monkeypatch.setattr(dispatcher, "run", fail)
        other.wait_leading()
        inbox.wait_for(5, since=time.monotonic())
        assert history("resigned") == ["stood_down:process"]


def test_a_step_that_never_ends_makes_another_lead_and_publishes_nothing_when_it_ends_after_all(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    history: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, broker = quick_server.url, broker_of(quick_server)
    with beat(broker, url, key) as alone:
        inbox.wait_for(3)
        nap = Nap(alone.scheduler._dispatcher, monkeypatch)
        assert nap.asleep.wait(PATIENCE)
        token = inbox.sent()[-1].token
        wait_until(lambda: history("resigned") == ["stood_down:process"], 30)
        again = inbox.wait_for(5, since=time.monotonic())
        assert all(sent.token > token for sent in again)
        before = len([sent for sent in inbox.sent() if sent.token == token])
        nap.woken.set()
        assert nap.ended.wait(PATIENCE)
        inbox.wait_for(5, since=time.monotonic())
        assert len([sent for sent in inbox.sent() if sent.token == token]) == before
        assert gaps(inbox.sent(), STEP) == []


def test_rounds_that_never_end_do_not_keep_the_garbage_collector_from_its_work(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    history: Callable[[str], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    woken, asleep = threading.Event(), threading.Event()
    work = Rounds.work

    def hang(self: Rounds) -> float:
        if not asleep.is_set():
            asleep.set()
            assert woken.wait(60)
        return work(self)

    monkeypatch.setattr(Rounds, "work", hang)
    with beat(broker_of(quick_server), quick_server.url, key):
        try:
            assert asleep.wait(PATIENCE)
            assert not gc.isenabled()  # it rests while runs go out
            wait_until(lambda: history("resigned") == ["stood_down:process"], 30)
            wait_until(gc.isenabled)
        finally:
            woken.set()
        inbox.wait_for(3, since=time.monotonic())
    assert gc.isenabled()


def test_work_that_was_given_up_writes_nothing_even_if_the_process_still_leads(
    quick_server: Server, inbox: Inbox, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with beat(broker_of(quick_server), quick_server.url, key) as alone:
        inbox.wait_for(3)
        scheduler = alone.scheduler
        given_up = scheduler._tenure
        assert given_up is not None
        # As an embedded beat does whose worker has yet to hand over.
        monkeypatch.setattr(scheduler._membership, "stand_down", lambda *_: None)
        nap = Nap(scheduler._dispatcher, monkeypatch)
        assert nap.asleep.wait(PATIENCE)
        wait_until(lambda: scheduler._tenure not in (None, given_up), 30, "its successor")
        again = inbox.wait_for(3, since=time.monotonic())
        assert {sent.token for sent in again} == {given_up.token}
        assert scheduler.is_leader
        assert not given_up.still_leads(), "two would write under one token"
        nap.woken.set()
        assert nap.ended.wait(PATIENCE)
        inbox.wait_for(5, since=time.monotonic())
        assert gaps(inbox.sent(), STEP) == []
        assert len({sent.task_id for sent in inbox.sent()}) == len(inbox.sent())


def test_user_code_finds_its_app_in_the_thread_that_dispatches(
    quick_server: Server, inbox: Inbox, key: str
) -> None:
    names: list[str] = []

    def note() -> str:
        names.append(celery.current_app.main)
        return "tick"

    app = shop(
        broker_of(quick_server),
        key,
        {"lazy": {**TICK, "kwargs": {"entry": BeatLazyFunc(note)}}},
        leader_url=quick_server.url,
    )
    with BeatService(app):
        inbox.wait_for(2)
    assert set(names) == {"shop"}


@pytest.mark.parametrize("own", [{"max_lateness": 0.5}, {"missed_runs": "skip"}])
def test_a_run_that_was_claimed_when_the_broker_went_is_missed_once_it_is_too_late(
    quick_server: Server,
    key: str,
    own: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("celery_safe_leader._dispatch.entry.DEFAULT_TOLERANCE_US", 500_000)
    stage = DrivenLeaders(quick_server, key, WRITE_AHEAD)
    queue = Queue(stage.broker, key)
    stage.closing.append(queue.close)
    try:
        strict = stage.entry("strict", 60, options={"leader": own})
        app = stage.app(strict=strict, lenient=stage.entry("lenient", 60))
        stage.leader(app).run()
        claims = {stage.claim(name, 0.0) for name in ("strict", "lenient")}
        time.sleep(0.6)
        leader = stage.leader(app)
        wait_until(lambda: (leader.run(), stage.pending() == set())[1], 30)
        [sent] = queue.wait_for(1)
        assert sent.headers["kwargsrepr"] == "{'entry': 'lenient'}"
        assert "A run of entry 'strict' was claimed and is not known to be published" in caplog.text
        moments = {claim.entry: claim.moment for claim in claims}
        runs = {name: decode_run(raw).moment for name, raw in stage.runs().items()}
        assert {name: runs[name] for name in moments} == moments
        assert len(queue.sent()) == 1
    finally:
        for close in reversed(stage.closing):
            close()
