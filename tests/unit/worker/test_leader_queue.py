"""The leader queue is declared and left out as Celery's own options say; nothing is connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import celery
import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from celery_safe_leader import conf
from celery_safe_leader._worker.leader_only.queue import declaration
from celery_safe_leader.bootsteps import install
from celery_safe_leader.tasks import leader_only
from tests.unit.worker.consumers import make_consumer

NAME = "leader.shop"
RELEASE = tuple(int(part) for part in celery.__version__.split(".")[:2])
Make = Callable[..., Celery]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Make:
    def made(**settings: Any) -> Celery:
        app = Celery("shop", broker="memory://", set_as_current=False)
        app.conf.update(leader_url="redis://127.0.0.1:1/0", leader_candidate=False, **settings)
        install(app)
        request.addfinalizer(app.close)
        return app

    return made


def consumed(app: Celery, *, include: Any = None, exclude: Any = None) -> set[str]:
    """Return what a worker consumes that does not lead, as Celery selects it."""
    queues: Any = app.amqp.queues
    queues.select(include)
    queues.deselect(exclude)
    make_consumer(app)
    return set(queues.consume_from)


OPTIONS: list[dict[str, Any]] = [
    {"task_queue_max_priority": 5},
    {"task_create_missing_queue_type": "quorum"},
    {"task_create_missing_queue_exchange_type": "topic"},
]


@pytest.mark.parametrize("settings", OPTIONS, ids=str)
def test_who_only_sends_declares_it_as_a_worker_does_and_as_celery_declares_others(
    make: Make, settings: dict[str, Any]
) -> None:
    if "task_create_missing_queue_type" in str(settings) and RELEASE < (5, 6):
        pytest.skip("the setting is newer")
    sender, worker = make(**settings), make(**settings)
    sent: list[Any] = []

    @sender.task(name="alone", shared=False)
    @leader_only
    def alone() -> None: ...

    sender.amqp.send_task_message = lambda *_, queue, **__: sent.append(queue)
    alone.delay()
    make_consumer(worker)
    stock = make(**settings).amqp.queues["other"]
    (used,), declared = sent, worker.amqp.queues[NAME]
    assert used.name == declared.name == NAME
    assert used.queue_arguments == declared.queue_arguments == stock.queue_arguments
    assert used.exchange.type == declared.exchange.type == stock.exchange.type


def test_excluded_queues_stay_excluded(make: Make) -> None:
    assert consumed(make_with(make, "a", "b"), exclude="b") == {"a"}
    assert consumed(make_with(make, "a", "b"), include="b") == {"b"}
    assert consumed(make_with(make, "a", "b")) == {"a", "b"}


def make_with(make: Make, *queues: str) -> Celery:
    return make(task_queues={name: {"exchange": name, "routing_key": name} for name in queues})


@pytest.mark.parametrize("declares_it", [False, True])
def test_it_is_not_consumed_whatever_the_process_did_with_it_before(
    make: Make, declares_it: bool
) -> None:
    app = make_with(make, "a", *[NAME] * declares_it)
    declaration(app, NAME)
    assert consumed(app) == {"a"}


def test_the_default_queue_cannot_be_the_leader_queue(make: Make) -> None:
    app = make(leader_queue="celery")
    message = "leader_queue is 'celery', as is task_default_queue; it must be a queue of its own"
    for read in (conf.read, conf.leader_names):
        with pytest.raises(ImproperlyConfigured, match=message):
            read(app)


@pytest.mark.parametrize("below", [True, False], ids=["below", "above"])
def test_wrong_arguments_are_refused_where_the_call_is_made(make: Make, below: bool) -> None:
    app = make()

    def alone(x: int, *, y: int = 0) -> None: ...

    options: dict[str, Any] = {"name": "alone", "shared": False}
    task = (
        app.task(leader_only(alone), **options)
        if below
        else leader_only(app.task(alone, **options))
    )
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        task.delay(1, z=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        task.delay()
