"""Schedulers that send several messages of one run, as those with tenants do, under the mixin."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import celery
import pytest
from celery import Celery
from celery.beat import BeatLazyFunc, PersistentScheduler, SchedulingError

from celery_safe_leader.schedulers import LeaderSchedulerMixin
from tests.integration.beat.test_mixin import tick_until
from tests.support.celery.periodic_workers import Workers
from tests.support.processes import Children
from tests.support.processes.waiting import PATIENCE, wait_until
from tests.support.servers import Server

TENANTS = ("acme", "globex", "initech")
BY_STOCK = True if celery.VERSION >= (5, 7) else None
"""The header ``celery_beat_task`` of stock beat."""
BETWEEN: list[Callable[[str], None]] = []
"""Called before the message of each tenant."""


def evaluated(tenant: str) -> str:
    """Return the argument of one tenant's message."""
    for call in BETWEEN:
        call(tenant)
    return tenant


def message_for(entry: Any, tenant: str) -> Any:
    """Return a copy of an entry, for one tenant."""
    copy = object.__new__(type(entry))
    copy.__dict__.update(vars(entry), kwargs={"tenant": BeatLazyFunc(evaluated, tenant)})
    return copy


class EachOnce(PersistentScheduler):
    """Sends by ``apply_async``, below the mixin."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for tenant in TENANTS:
            with suppress(SchedulingError):
                self.apply_async(message_for(entry, tenant), producer=producer, advance=False)


class EachByTheOther(PersistentScheduler):
    """Sends by its base's ``apply_entry``."""

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for tenant in TENANTS:
            super().apply_entry(message_for(entry, tenant), producer=producer)


class Below(LeaderSchedulerMixin, EachOnce):
    calls: Any = ()


class Above(LeaderSchedulerMixin, PersistentScheduler):
    """Has the mixin, and is overridden further."""

    calls: Any = ()


class FurtherAbove(Above):
    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        for tenant in TENANTS:
            super().apply_entry(message_for(entry, tenant), producer=producer)


class WithinOneAttempt(PersistentScheduler):
    """Sends several messages within one ``apply_async``."""

    def apply_async(self, entry: Any, *args: Any, **kwargs: Any) -> Any:
        for tenant in TENANTS:
            result = super().apply_async(message_for(entry, tenant), *args, **kwargs)
        return result


class Within(LeaderSchedulerMixin, WithinOneAttempt):
    calls: Any = ()


KINDS = [Below, FurtherAbove, Within]
STOCK = {Below: EachOnce, FurtherAbove: EachByTheOther, Within: WithinOneAttempt}
"""The same without the mixin."""


@pytest.fixture(autouse=True)
def _nothing_between() -> Iterator[None]:
    yield
    BETWEEN.clear()


@pytest.fixture
def make(quick_server: Server, key: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def build(kind: Any, queue: str = "", **entry: Any) -> Any:
        app = Celery(key, set_as_current=False)
        app.conf.update(
            broker_url=quick_server.url,
            leader_url=quick_server.url,
            leader_key=key,
            leader_ttl=0.6,
            leader_wait=0.1,
            task_default_queue=queue or key,
            result_expires=None,
            beat_schedule={"work": {"task": "shop.work", "schedule": 0.2, **entry}},
        )
        file = "entries-of-stock" if kind in STOCK.values() else "entries"
        scheduler = kind(app, schedule_filename=str(tmp_path / file))
        made.append(scheduler)
        return scheduler

    yield build
    for scheduler in made:
        scheduler.close()
    quick_server.client().delete(key)


def once() -> dict[str, Any]:
    """Return what makes an entry due once, at the start."""
    return {"schedule": 3600.0, "last_run_at": datetime.now(timezone.utc) - timedelta(hours=2)}


def messages(server: Server, queue: str) -> list[dict[str, Any]]:
    raw: Any = server.client().lrange(queue, 0, -1)
    return [json.loads(text) for text in reversed(raw)]


def tenant_of(message: dict[str, Any]) -> str:
    return next(name for name in TENANTS if name in message["headers"]["kwargsrepr"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_message_of_a_run_has_an_id_of_its_own(
    make: Any, quick_server: Server, key: str, kind: Any
) -> None:
    stock, queue = make(STOCK[kind], f"{key}-stock", **once()), f"{key}-stock"
    stock.tick()
    by_stock = messages(quick_server, queue)
    quick_server.client().delete(queue)
    assert [tenant_of(each) for each in by_stock] == [*TENANTS]
    assert len({each["headers"]["id"] for each in by_stock}) == len(TENANTS)
    scheduler = make(kind)
    tick_until(scheduler, lambda: len(messages(quick_server, key)) >= 9)
    sent = messages(quick_server, key)[:9]
    assert [tenant_of(each) for each in sent] == [*TENANTS] * 3
    ids = [each["headers"]["id"] for each in sent]
    assert len(set(ids)) == 9
    for each, own in zip(sent, ids, strict=True):
        headers, properties = each["headers"], each["properties"]
        assert headers["leader_occurrence"] == headers["root_id"] == own
        assert properties["correlation_id"] == own
        assert headers["leader_election"] == key
        assert headers.get("celery_beat_task") is BY_STOCK


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_broke_off_in_the_middle_is_sent_anew_and_each_message_executed_once(
    make: Any,
    quick_server: Server,
    key: str,
    kind: Any,
    children: Children,
    tmp_path: Path,
) -> None:
    workers = Workers(children, tmp_path / "workers", quick_server.url, leader_url=quick_server.url)
    try:
        first = make(kind, workers.queue, **once())

        def lose_leadership(tenant: str) -> None:
            if tenant == TENANTS[-1]:
                BETWEEN.clear()
                first._leader_mixin.membership.rest()

        BETWEEN.append(lose_leadership)
        tick_until(first, lambda: not BETWEEN)
        tick_until(first, lambda: first._leader_mixin.token == 0)
        broken_off = messages(quick_server, workers.queue)
        assert [tenant_of(each) for each in broken_off] == [*TENANTS[:-1]]

        second = make(kind, workers.queue, **once())
        tick_until(second, lambda: len(messages(quick_server, workers.queue)) >= 5)
        sent = messages(quick_server, workers.queue)
        assert [tenant_of(each) for each in sent[2:]] == [*TENANTS]
        ids = [each["headers"]["id"] for each in sent]
        assert ids[2:4] == ids[:2]
        assert len({each["headers"]["leader_publication"] for each in sent}) in (2, 5)

        worker = workers.start(pool="solo")
        workers.flush()
        assert [run.id for run in workers.runs() if run.id in ids] == [*ids[:2], ids[-1]]
        assert sum("Dropped a second publication" in line for line in worker.lines) == 2
        assert worker.stop() == 0
    finally:
        children.close()
        workers.close()


@pytest.mark.parametrize("kind", [Below, FurtherAbove])
def test_a_message_that_fails_leaves_the_ids_of_the_others_as_they_are(
    make: Any, quick_server: Server, key: str, kind: Any
) -> None:
    first = make(kind, **once())

    def fail(tenant: str) -> None:
        if tenant == TENANTS[0]:
            raise LookupError("no address of that tenant")
        if tenant == TENANTS[-1]:
            BETWEEN.clear()
            first._leader_mixin.membership.rest()

    BETWEEN.append(fail)
    tick_until(first, lambda: not BETWEEN)
    tick_until(first, lambda: first._leader_mixin.token == 0)
    second = make(kind, **once())
    tick_until(second, lambda: len(messages(quick_server, key)) >= 4)
    sent = messages(quick_server, key)
    assert [tenant_of(each) for each in sent] == [TENANTS[1], *TENANTS]
    assert sent[0]["headers"]["id"] == sent[2]["headers"]["id"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_noted_when_all_of_its_messages_are_sent(
    make: Any, quick_server: Server, key: str, kind: Any
) -> None:
    scheduler = make(kind, **once())
    counts: list[int] = []
    write = scheduler._do_sync

    def note() -> None:
        counts.append(len(messages(quick_server, key)))
        write()

    scheduler._do_sync = note
    scheduler._leader_mixin.keep_attributes(scheduler.__dict__)
    tick_until(scheduler, lambda: counts[-1:] == [3])
    assert set(counts) == {0, 3} or set(counts) == {3}


@pytest.mark.parametrize("kind", [Below, Above])
def test_a_run_that_is_withheld_as_beat_closes_stays_due(
    make: Any, quick_server: Server, key: str, kind: Any
) -> None:
    closing: list[threading.Thread] = []

    def close(tenant: str) -> None:
        BETWEEN.clear()
        closing.append(threading.Thread(target=first.close))
        closing[0].start()
        wait_until(lambda: first._leader_mixin.closed, what="the beginning of its end")

    BETWEEN.append(close)
    lazy = {"kwargs": {"tenant": BeatLazyFunc(evaluated, "acme")}} if kind is Above else {}
    first = make(kind, **once(), **lazy)
    tick_until(first, lambda: closing)
    closing[0].join(PATIENCE)
    assert messages(quick_server, key) == []
    second = make(kind, **once(), **lazy)
    tick_until(second, lambda: messages(quick_server, key))


def test_the_broker_that_fails_in_the_middle_gets_the_same_ids_again(
    make: Any, quick_server: Server, key: str
) -> None:
    scheduler = make(Below, **once())

    def fail(tenant: str) -> None:
        if tenant == TENANTS[-1]:
            BETWEEN.clear()
            scheduler.producer.connection.default_channel.client.connection_pool.disconnect()
            scheduler.producer.connection.default_channel._put = refuse

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionResetError("the connection was cut")

    BETWEEN.append(fail)
    tick_until(scheduler, lambda: len(messages(quick_server, key)) >= 5)
    sent = messages(quick_server, key)
    assert [tenant_of(each) for each in sent] == [*TENANTS[:2], *TENANTS]
    ids = [each["headers"]["id"] for each in sent]
    assert ids[:2] == ids[2:4]
    assert len(set(ids)) == 3
