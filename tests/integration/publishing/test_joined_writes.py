"""Messages of a batch that go to the same queue of a Redis broker are one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery.beat import ScheduleEntry
from kombu.messaging import Producer

from celery_safe_leader._dispatch.outcomes import Sent, Uncertain
from celery_safe_leader._publishing import sender as sender_module
from celery_safe_leader._publishing.builder import Builder
from celery_safe_leader._publishing.connection import join_writes
from celery_safe_leader._publishing.publisher import Publisher
from tests.support.celery.periodic import DUE_US, make_app, new_queue, received, yes
from tests.support.servers import Server

pytestmark = pytest.mark.skipif(not hasattr(Producer, "batch"), reason="kombu before 5.7")


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server()


@pytest.fixture
def app(server: Server) -> Any:
    return make_app(server.url, new_queue())


@pytest.fixture
def publisher(app: Any) -> Iterator[Publisher]:
    publisher = Publisher(app)
    yield publisher
    publisher.close()


def build(app: Any, number: int, queue: str = "") -> Any:
    options = {"queue": queue} if queue else {}
    entry = ScheduleEntry(
        name=f"e{number}",
        task="tests.plain",
        schedule=1,
        args=(number, 0),
        options=options,
        app=app,
    )
    return Builder(app).build(entry, task_id=f"id-{number}", headers={}, due_us=DUE_US)


def pushes(server: Server) -> int:
    stats: Any = server.client().info("commandstats")
    return int(stats.get("cmdstat_lpush", {}).get("calls", 0))


def ids(app: Any, queue: str) -> list[str]:
    return [message["headers"]["id"] for message in received(app, queue)]


def test_a_batch_for_one_queue_is_one_command_in_order(
    server: Server, app: Any, publisher: Publisher
) -> None:
    outcomes = publisher.publish([build(app, number) for number in range(100)], yes)
    assert [type(outcome) for outcome in outcomes] == [Sent] * 100
    assert pushes(server) == 1
    assert ids(app, app.conf.task_default_queue) == [f"id-{number}" for number in range(100)]


def test_each_queue_gets_its_own_messages_in_order(
    server: Server, app: Any, publisher: Publisher
) -> None:
    queues = ["one", "one", "two", "one", "two", "two"]
    publisher.publish([build(app, number, queue) for number, queue in enumerate(queues)], yes)
    assert pushes(server) == 4
    assert ids(app, "one") == ["id-0", "id-1", "id-3"]
    assert ids(app, "two") == ["id-2", "id-4", "id-5"]


def test_a_queue_that_refuses_does_not_keep_the_others_from_theirs(
    server: Server, app: Any, publisher: Publisher
) -> None:
    publisher.publish([build(app, 9, "stuck"), build(app, 8, "fine")], yes)
    assert ids(app, "stuck") == ["id-9"]
    server.client().set("stuck", "not a queue")
    queues = ["fine", "stuck", "stuck", "fine"]
    outcomes = publisher.publish(
        [build(app, number, queue) for number, queue in enumerate(queues)], yes
    )
    assert [type(outcome) for outcome in outcomes] == [Uncertain] * 4
    assert ids(app, "fine") == ["id-8", "id-0", "id-3"]


class Pipeline:
    def __init__(self, commands: Any) -> None:
        self.command_stack = commands


class Pending:
    """A batch as kombu gives it, with these commands."""

    def __init__(self, commands: Any) -> None:
        self.state = self
        self.session = self
        self.pipeline = Pipeline(commands)


@pytest.mark.parametrize(
    "commands",
    [
        [(("LPUSH", "q", "a"), {}), (("PUBLISH", "t", "b"), {})],
        [(("LPUSH", "q", "a"), {}), (("LPUSH", "q", "b"), {"option": 1})],
        [("LPUSH", "q", "a"), ("LPUSH", "q", "b")],
        [[], []],
        None,
        (),
    ],
)
def test_what_is_not_understood_stays_as_it_is(commands: Any) -> None:
    before = repr(commands)
    join_writes(Pending(commands))
    assert repr(commands) == before


def test_without_these_attributes_messages_are_sent_one_command_each(
    server: Server, app: Any, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "join_writes", lambda _: join_writes(object()))
    publisher.publish([build(app, number) for number in range(5)], yes)
    assert pushes(server) == 5
    assert ids(app, app.conf.task_default_queue) == [f"id-{number}" for number in range(5)]
