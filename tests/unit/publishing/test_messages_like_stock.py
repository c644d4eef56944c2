"""Our messages are those of stock beat, plus the headers of the leader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_safe_leader._dispatch.outcomes import Sent
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.headers import leader_headers
from celery_safe_leader._publishing.publisher import Publisher
from tests.support.celery.periodic import (
    CASES,
    DUE_US,
    Case,
    assert_same,
    called_message,
    make_entry,
    received,
    stock_send,
    yes,
)
from tests.support.celery.projects import PROJECTS

ALL = [*CASES, *PROJECTS]
OURS = {
    "leader_election": "shop",
    "leader_occurrence": "the-occurrence",
    "leader_token": 7,
    "leader_covers": "5,9",
}


@pytest.fixture
def app(case: Case) -> Iterator[Any]:
    with case.app("memory://") as app:
        yield app


@pytest.mark.parametrize("case", [case for case in ALL if not case.call], ids=str)
def test_message_is_that_of_stock_beat_plus_the_headers_of_the_leader(app: Any, case: Case) -> None:
    queue = app.conf.task_default_queue
    stock_send(app, case, queue, "the-id")
    entry, builder = make_entry(app, case, queue), Builder(app)
    assert not builder.making(entry).is_called
    headers = leader_headers("shop", "the-occurrence", 7, (5, 9))
    publisher = Publisher(app)
    for task_id, due_us in (("another-id", DUE_US - 10_000_000), ("the-id", DUE_US)):
        built = builder.build(entry, task_id=task_id, headers=headers, due_us=due_us)
        assert isinstance(publisher.publish([built], yes)[0], Sent)
    publisher.close()

    stock, other, ours = received(app, queue)
    nonces = [message["headers"].pop("leader_publication") for message in (other, ours)]
    assert len(set(nonces)) == 2
    assert {name: ours["headers"].pop(name) for name in OURS} == OURS
    assert_same(ours, stock)
    assert (entry.name in builder._templates._of_entries) is case.repeated


@pytest.mark.parametrize("attempts", [1, 2])
@pytest.mark.parametrize("case", ALL, ids=str)
def test_message_that_celery_makes_is_that_of_stock_beat_plus_the_headers_of_the_leader(
    app: Any, case: Case, attempts: int
) -> None:
    queue = app.conf.task_default_queue
    stock_send(app, case, queue, "the-occurrence")
    entry, publisher = make_entry(app, case, queue), Publisher(app)
    before = {**entry.options, "headers": {**(entry.options.get("headers") or {})}}
    assert Builder(app).making(entry).is_called is case.call
    message = called_message(publisher, entry, "the-occurrence")
    for _ in range(attempts):
        assert isinstance(publisher.publish([message], yes)[0], Sent)
    publisher.close()

    stock, *_, ours = received(app, queue)
    ours["headers"].pop("leader_publication")
    assert {name: ours["headers"].pop(name) for name in OURS} == OURS
    assert_same(ours, stock)
    assert {"headers": {}, **entry.options} == before
