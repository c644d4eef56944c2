"""The scheduler in Celery's own service, against a real server that is broker and election."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.schedules import schedule

from celery_safe_leader.beat import LeaderScheduler
from tests.support.celery.inbox import Inbox, gaps
from tests.support.celery.services import BeatService, shop
from tests.support.network.ports import free_port
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

LOGGER = "celery_safe_leader.beat"


def entry(name: str, seconds: float = 0.1, **more: Any) -> dict[str, Any]:
    return {"task": "shop.work", "schedule": seconds, "kwargs": {"entry": name}, **more}


@pytest.fixture
def inbox(quick_server: Server, key: str) -> Iterator[Inbox]:
    with Inbox(quick_server.url, queue=key) as inbox:
        yield inbox


def test_a_schedule_may_change_in_every_way_while_beat_runs(
    quick_server: Server, inbox: Inbox, key: str
) -> None:
    app = shop(quick_server.url, key, {"first": entry("first")})
    with BeatService(app):
        inbox.wait_for(3, entry="first")

        app.conf.beat_schedule["second"] = entry("second")
        inbox.wait_for(3, entry="second")

        app.conf.beat_schedule["first"] = entry("slower", 0.3)
        slower = inbox.wait_for(3, entry="slower")
        assert gaps(slower, 0.3) == []

        del app.conf.beat_schedule["second"]
        _wait_silent(inbox, "second")

        app.conf.beat_schedule = {"third": entry("third")}
        inbox.wait_for(3, entry="third")
        _wait_silent(inbox, "slower")

        signature = app.tasks["shop.work"].s(entry="added")
        app.add_periodic_task(0.1, signature, name="added")
        inbox.wait_for(3, entry="added")
        since = time.monotonic()
        inbox.wait_for(3, entry="third", since=since)


def _wait_silent(inbox: Inbox, name: str) -> None:
    # The change is seen within a slice of the wait; what comes after that is too much.
    time.sleep(1.2)
    assert inbox.sent(name, since=time.monotonic() - 0.2) == []


def test_a_new_leader_neither_repeats_nor_forgets(
    quick_server: Server, inbox: Inbox, key: str
) -> None:
    app = shop(quick_server.url, key, {"tick": entry("tick", total_run_count=1000)})
    with BeatService(app) as first:
        inbox.wait_for(5, entry="tick")
    before = first.scheduler.schedule["tick"]
    other_app = shop(quick_server.url, key, {"tick": entry("tick")})
    with BeatService(other_app) as second:
        second.wait_leading()
        inbox.wait_for(len(inbox.sent()) + 5, entry="tick")
    after, sent = second.scheduler.schedule["tick"], inbox.wait_for(1, entry="tick")
    assert gaps(sent, 0.1) == []
    assert len({dispatch.task_id for dispatch in sent}) == len(sent)
    assert len({dispatch.token for dispatch in sent}) == 2
    assert before.total_run_count < after.total_run_count == 1000 + len(sent)
    assert before.last_run_at < after.last_run_at
    assert after.last_run_at.timestamp() * 1e6 == pytest.approx(sent[-1].covers[1], abs=2)


def count_ticks(service: BeatService) -> list[float]:
    """Return what each tick of the running beat returns from now on; its length is their number."""
    ticks: list[float] = []
    tick = service.scheduler.tick

    def counted() -> float:
        ticks.append(tick())
        return ticks[-1]

    service.scheduler.tick = counted
    return ticks


def test_ticks_are_seen_on_a_leader_with_nothing_to_do_and_on_a_standby(
    quick_server: Server, key: str
) -> None:
    apps = [shop(quick_server.url, key, {"rare": entry("rare", 3600)}) for _ in range(2)]
    with BeatService(apps[0]) as leader:
        leader.wait_leading()
        with BeatService(apps[1]) as standby:
            for service in (leader, standby):
                ticks = count_ticks(service)
                wait_until(lambda t=ticks: len(t) > 1, 30)  # type: ignore[misc]
            assert leader.leads
            assert not standby.leads


def test_making_a_scheduler_connects_to_nothing_and_starts_no_thread(key: str) -> None:
    threads = set(threading.enumerate())
    app = shop(f"redis://127.0.0.1:{free_port()}/0", key, {"tick": entry("tick")})
    for lazy in (True, False):
        scheduler = LeaderScheduler(app, lazy=lazy)
        assert "not started" in scheduler.info
        assert not scheduler.is_leader
        scheduler.close()
        scheduler.close()
        assert scheduler.tick() == scheduler.max_interval
    # Threads of the tests before may end meanwhile.
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("batches", [True, False], ids=["together", "one by one"])
def test_an_entry_whose_queue_refuses_it_does_not_hold_up_the_others(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    batches: bool,
) -> None:
    if not batches:  # as on RabbitMQ, and with kombu before 5.7
        name = "celery_safe_leader._publishing.sender.supports_batches"
        monkeypatch.setattr(name, lambda _: False)
    client, stuck = quick_server.client(), f"{key}-stuck"
    client.set(stuck, "not a queue")
    entries = {f"tick-{n}": entry(f"tick-{n}") for n in range(3)}
    entries["stuck"] = entry("stuck", options={"queue": stuck})
    with caplog.at_level(logging.INFO, LOGGER), BeatService(shop(quick_server.url, key, entries)):
        inbox.wait_for(5)
        time.sleep(1.5)  # until the one at fault is known
        since = time.monotonic()
        time.sleep(2.0)
        for n in range(3):
            sent = inbox.sent(f"tick-{n}", since=since)
            assert len(sent) >= 10, sent
            assert gaps(sent, 0.1) == [] or max(b.covers[1] - b.covers[0] for b in sent) < 500_000
        assert any("does not accept messages" in text for text in caplog.messages)
        client.delete(stuck)
        wait_until(lambda: client.llen(stuck) >= 1, 30, "the entry that was stuck")
    client.delete(stuck)


def test_a_broker_that_was_down_gets_what_it_missed_and_one_error_is_logged(
    start_server: Callable[..., Server],
    quick_server: Server,
    key: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = start_server()
    app = shop(broker.url, key, {"tick": entry("tick")}, leader_url=quick_server.url)
    caplog.set_level(logging.INFO, LOGGER)
    with BeatService(app) as beat:
        with Inbox(broker.url, queue=key) as inbox:
            before = inbox.wait_for(3)[-1]
        broker.stop()
        wait_until(lambda: "does not accept messages" in caplog.text, 30, "the error")
        time.sleep(1.0)
        assert beat.leads
        broker.start()
        with Inbox(broker.url, queue=key) as inbox:
            after = inbox.wait_for(5, 30)
        # Those between were taken out of the queue by nobody: the broker lost them with its data.
        assert after[0].covers[0] >= before.covers[1]
        assert gaps(after, 0.1) == []
    assert caplog.text.count("does not accept messages") == 1
    assert caplog.text.count("accepts messages again") == 1


def test_a_beat_whose_clock_is_ahead_stands_down_and_leads_again_once_it_is_right(
    quick_server: Server,
    inbox: Inbox,
    key: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    app = shop(quick_server.url, key, {"tick": entry("tick")})
    with BeatService(app) as beat:
        inbox.wait_for(3)
        with monkeypatch.context() as patch:
            ahead = lambda: time.time_ns() // 1000 + 60_000_000  # noqa: E731
            patch.setattr("celery_safe_leader._dispatch.rounds.now_us", ahead)
            wait_until(lambda: "stands down" in caplog.text, 30, "the error")
        assert not beat.leads
        assert "Correct the clock of this machine" in caplog.text
        since = time.monotonic()
        inbox.wait_for(3, 30, since=since)
        assert gaps(inbox.sent("tick"), 0.1) == []


class Stubborn(schedule):
    """A class of the user's, which answers for itself."""

    def is_due(self, last_run_at: Any) -> Any:
        return super().is_due(last_run_at)


def test_a_worker_runs_what_beat_sends(celery_app: Celery) -> None:
    done: list[str] = []

    @celery_app.task(name="shop.note", shared=False)
    def note(name: str) -> None:
        done.append(name)

    celery_app.conf.beat_schedule = {
        "interval": {"task": "shop.note", "schedule": 0.2, "args": ("interval",)},
        "stubborn": {"task": "shop.note", "schedule": Stubborn(0.2), "args": ("stubborn",)},
    }
    with start_worker(celery_app, perform_ping_check=False), BeatService(celery_app):
        wait_until(lambda: done.count("interval") > 3 and done.count("stubborn") > 3, 30)


@pytest.fixture
def celery_config(quick_server: Server, key: str) -> dict[str, Any]:
    return {
        "broker_url": quick_server.url,
        "result_backend": "cache+memory://",
        "task_default_queue": key,
        "leader_key": key,
        "leader_ttl": 0.6,
        "leader_wait": 0.1,
    }


def test_an_entry_with_a_wrong_last_run_is_named_and_the_others_run(
    quick_server: Server, inbox: Inbox, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop(
        quick_server.url,
        key,
        {
            "text": entry("text", last_run_at="yesterday"),
            "count": entry("count", total_run_count="many"),
            "tick": entry("tick"),
        },
    )
    with BeatService(app) as beat:
        inbox.wait_for(3, entry="tick")
        assert beat.leads
    assert (
        "'text' of beat_schedule cannot be read: TypeError: last_run_at is 'yesterday'"
        in caplog.text
    )
    assert "Entry 'count' of beat_schedule cannot be read" in caplog.text
    assert {dispatch.kwargsrepr for dispatch in inbox.sent()} == {"{'entry': 'tick'}"}


def test_a_failure_that_was_not_foreseen_is_logged_and_beat_goes_on(
    quick_server: Server, inbox: Inbox, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = shop(quick_server.url, key, {"tick": entry("tick")})
    with BeatService(app) as beat:
        inbox.wait_for(3, entry="tick")
        app.conf.beat_schedule = 5
        wait_until(lambda: "failed unexpectedly" in caplog.text, 30, "the error")
        assert "'int' object is not iterable" in caplog.text
        app.conf.beat_schedule = {"tick": entry("tick")}
        inbox.wait_for(3, entry="tick", since=time.monotonic())
        assert beat.leads
    assert gaps(inbox.sent("tick"), 0.1) == []
