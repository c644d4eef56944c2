"""``install(app)`` and ``INSTALLED_APPS``: which apps get it, when, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from celery import Celery, current_app, shared_task
from celery.exceptions import ImproperlyConfigured

import celery_safe_leader
from celery_safe_leader._worker.dedup.step import FirstPublicationWins
from celery_safe_leader._worker.dedup.strategies import FilteredStrategies
from celery_safe_leader.errors import ConfigurationError
from tests.support.processes import Children
from tests.unit.worker.consumers import make_consumer

BROKER = "redis://:Zq9Xv7@127.0.0.1:1/0"


@shared_task(name="tests.of_all_apps")
def of_all_apps() -> None: ...


def make_app(**settings: Any) -> Celery:
    app = Celery("shop", broker=BROKER, set_as_current=False)
    app.conf.update(settings)
    return app


def installed(app: Celery) -> bool:
    return FirstPublicationWins in app.steps["consumer"]


def test_it_is_installed_once_however_often_it_is_called() -> None:
    app = make_app()
    before = len(app.steps["consumer"])
    celery_safe_leader.install(app)
    once = set(app.steps["consumer"])
    celery_safe_leader.install(app)
    assert set(app.steps["consumer"]) == once
    assert len(once) > before
    steps = make_consumer(app).blueprint.steps
    assert sum(isinstance(step, FirstPublicationWins) for step in steps.values()) == 1


@pytest.mark.parametrize("finalized", [True, False])
def test_all_tasks_are_guarded_whether_they_come_before_or_after(finalized: bool) -> None:
    app = make_app()

    @app.task(name="before", shared=False)
    def before() -> None: ...

    if finalized:
        app.finalize()
    celery_safe_leader.install(app)

    @app.task(name="after", shared=False)
    def after() -> None: ...

    consumer = make_consumer(app)
    consumer.update_strategies()
    assert isinstance(consumer.strategies, FilteredStrategies)
    assert {"before", "after", "tests.of_all_apps"} <= set(consumer.strategies)


def test_other_apps_of_the_process_are_left_alone() -> None:
    one, other = make_app(), make_app()
    celery_safe_leader.install(one)
    assert installed(one)
    assert not installed(other)
    assert not isinstance(make_consumer(other).strategies, FilteredStrategies)


def test_two_apps_have_a_guard_of_their_own_each() -> None:
    one, other = make_app(leader_key="one"), make_app(leader_key="other")
    for app in (one, other):
        celery_safe_leader.install(app)
    first, second = make_consumer(one), make_consumer(other)
    assert first.strategies is not second.strategies


def test_a_proxy_of_an_app_will_do() -> None:
    app = Celery("shop", broker=BROKER, set_as_current=True)
    celery_safe_leader.install(current_app)
    assert installed(app)


@pytest.mark.parametrize("wrong", [None, "shop", Celery])
def test_what_is_no_app_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^app is of type \w+; it must be a Celery app$"):
        celery_safe_leader.install(wrong)


def test_wrong_settings_are_refused_when_a_worker_is_made_and_not_before() -> None:
    app = make_app(leader_ttl="soon")
    celery_safe_leader.install(app)
    with pytest.raises(ImproperlyConfigured, match="leader_ttl is 'soon'") as refused:
        make_consumer(app)
    assert "Zq9Xv7" not in str(refused.value)


_DJANGO = """
import json
import django
from django.conf import settings
from celery import Celery
from celery_safe_leader._worker.dedup.step import FirstPublicationWins

early = Celery("early")
settings.configure(INSTALLED_APPS=["celery_safe_leader"])
django.setup()
late = Celery("late")
late.finalize()
early.finalize()
found = [FirstPublicationWins in app.steps["consumer"] for app in (early, late)]
from django.apps import apps
print("found", json.dumps([found, apps.get_app_config("celery_safe_leader").verbose_name]))
"""


def test_django_installs_it_in_the_apps_that_are_there_and_in_those_to_come(
    children: Children,
) -> None:
    line = children.python(_DJANGO).wait_for_line("found", 30).text
    assert json.loads(line.removeprefix("found ")) == [[True, True], "Celery safe leader"]
