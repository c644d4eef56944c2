"""Which embedded beats a worker keeps, which it leaves alone, and which it does not start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.beat import PersistentScheduler
from celery.exceptions import ImproperlyConfigured

import celery_safe_leader
from celery_safe_leader._worker.embedded_beat.keeper import Keeper
from celery_safe_leader.schedulers import LeaderSchedulerMixin


class OfAnotherPackage(PersistentScheduler):
    """Has names like ours, and means something else by them."""

    follows_worker = True
    safe_leader_embedded_role = "follows worker"


class OfTheMixin(LeaderSchedulerMixin, PersistentScheduler):
    """A scheduler of another kind."""


@pytest.fixture
def worker() -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def make(scheduler: Any, *, install: bool = True, **options: Any) -> Any:
        app = Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False)
        app.conf.beat_scheduler = scheduler
        app.conf.beat_schedule = options.pop("schedule", {})
        if install:
            celery_safe_leader.install(app)
        made.append(app.WorkController(beat=True, pool_cls="solo", **options))
        return made[-1]

    yield make
    for each in made:
        if hasattr(each.consumer, "safe_leader"):
            each.consumer.safe_leader.shutdown(each.consumer)


def beat_step(worker: Any) -> Any:
    return next(step for step in worker.steps if step.alias == "Beat").obj


@pytest.mark.parametrize("name", ["celery_safe_leader.LeaderScheduler", "leader"])
def test_the_beat_of_a_worker_that_takes_part_is_kept(
    worker: Callable[..., Any], name: str
) -> None:
    made = worker(name)
    assert isinstance(beat_step(made), Keeper)
    assert made.beat is beat_step(made)
    assert made.beat._member is not None


def test_a_beat_with_the_mixin_is_kept_and_follows_nobody(worker: Callable[..., Any]) -> None:
    made = worker(OfTheMixin)
    assert isinstance(beat_step(made), Keeper)
    assert made.beat._member is None


@pytest.mark.parametrize(
    ("scheduler", "install"),
    [
        ("celery.beat:PersistentScheduler", True),
        (OfAnotherPackage, True),
        ("nowhere.Scheduler", True),
        ("celery_safe_leader.LeaderScheduler", False),
    ],
    ids=["stock", "another package", "unknown", "not installed"],
)
def test_other_beats_are_left_alone(
    worker: Callable[..., Any], scheduler: Any, install: bool
) -> None:
    made = worker(scheduler, install=install)
    assert type(beat_step(made)).__module__ == "celery.beat"


def test_a_worker_that_takes_no_part_has_no_beat(
    worker: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    made = worker("celery_safe_leader.LeaderScheduler", no_leader=True)
    assert beat_step(made) is None
    assert made.beat is None
    assert "takes no part in the election: its embedded beat is not started" in caplog.text


def test_wrong_options_of_an_entry_are_refused_when_the_worker_starts(
    worker: Callable[..., Any],
) -> None:
    entry = {"task": "x", "schedule": 1.0, "options": {"leader": {"missed_runs": "never"}}}
    with pytest.raises(ImproperlyConfigured, match=r"beat entry 'stock'.*'never'"):
        worker("celery_safe_leader.LeaderScheduler", schedule={"stock": entry})
