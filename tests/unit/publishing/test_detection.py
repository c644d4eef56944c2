"""Whatever somebody puts in the place of Celery's and kombu's functions is noticed."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import pytest
from celery import Celery, Task
from celery.app.amqp import AMQP
from celery.beat import Scheduler
from kombu.messaging import Producer

from celery_safe_leader._publishing.own_way.detection import Detection
from celery_safe_leader._publishing.own_way.originals import are_all_original, is_original
from celery_safe_leader.beat import LeaderScheduler
from tests.support.celery.periodic import make_app, new_queue

METHODS = [
    (Scheduler, "apply_entry"),
    (Scheduler, "apply_async"),
    (Scheduler, "send_task"),
    (Task, "apply_async"),
    (Task, "shadow_name"),
    (Task, "_get_exec_options"),
    (Celery, "send_task"),
    (AMQP, "as_task_v2"),
    (AMQP, "_create_task_sender"),
    (AMQP, "Router"),
    (Producer, "publish"),
    (Producer, "_publish"),
]


def wrap_plainly(original: Any) -> Any:
    return lambda *args, **options: original(*args, **options)


def wrap_in_disguise(original: Any) -> Any:
    @functools.wraps(original)
    def wrapper(*args: Any, **options: Any) -> Any:
        return original(*args, **options)

    wrapper.__module__, wrapper.__qualname__ = original.__module__, original.__qualname__
    return wrapper


class Proxy:
    """As wrapt's: looks like the function in every way that can be asked."""

    def __init__(self, wrapped: Any) -> None:
        self.__wrapped__ = wrapped

    __class__: Any = property(lambda self: FunctionType)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __get__(self, instance: Any, owner: Any) -> Any:
        return self.__wrapped__.__get__(instance, owner)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.__wrapped__(*args, **options)


def same_file(original: Any) -> Any:
    """Return other code that claims to be of the same file and name."""
    code = (lambda *args, **options: original(*args, **options)).__code__
    code = code.replace(co_filename=original.__code__.co_filename, co_name=original.__name__)
    return FunctionType(code, globals(), original.__name__, closure=_cell(original))


def _cell(value: Any) -> Any:
    return (lambda: value).__closure__


WRAPPERS: list[Callable[[Any], Any]] = [wrap_plainly, wrap_in_disguise, Proxy, same_file]


@pytest.fixture
def app() -> Iterator[Any]:
    app = make_app("memory://", new_queue(), leader_url="redis://localhost:1/0")
    yield app
    app.close()


def why(app: Any, task: str = "tests.plain", kind: type = LeaderScheduler) -> str:
    return Detection(app, kind(app, lazy=True)).why(app.tasks[task])


def test_what_nobody_has_touched_is_original(app: Any) -> None:
    assert why(app) == ""
    for kind, name in METHODS:
        assert is_original(kind, name, kind)
    assert are_all_original(AMQP)
    app.amqp.send_task_message, app.amqp.create_task_message, app.amqp.router  # noqa: B018
    assert why(app) == ""


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize(("kind", "name"), METHODS, ids=str)
def test_a_replaced_method_is_noticed(
    app: Any, monkeypatch: pytest.MonkeyPatch, kind: type, name: str, wrap: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(kind, name, wrap(vars(kind)[name]))
    assert why(app) != ""


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_what_is_replaced_on_an_instance_is_noticed(
    app: Any, monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Any], Any]
) -> None:
    for holder, name in (
        (app, "send_task"),
        (app.tasks["tests.plain"], "apply_async"),
        (app.amqp, "send_task_message"),
        (app.amqp, "create_task_message"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, wrap(getattr(holder, name)))
            assert why(app) != "", (holder, name)
        assert why(app) == "", (holder, name)


@pytest.mark.parametrize("name", ["apply_entry", "apply_async", "send_task", "sync", "should_sync"])
def test_an_override_of_the_scheduler_is_noticed(app: Any, name: str) -> None:
    def override(self: Any, *args: Any, **options: Any) -> Any:
        return getattr(LeaderScheduler, name)(self, *args, **options)

    assert why(app, kind=type("Own", (LeaderScheduler,), {name: override})) != ""
    mixin = type("Mixin", (), {name: override})
    assert why(app, kind=type("Mixed", (mixin, LeaderScheduler), {})) != ""


def test_a_task_class_with_its_own_way_concerns_its_tasks_alone(app: Any) -> None:
    assert why(app, "tests.wrapping") != ""
    assert why(app, "tests.shadowing") != ""
    assert why(app, "tests.plain") == ""


def test_what_is_set_up_later_is_noticed_at_the_next_tenure_or_within_a_minute(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    detection = Detection(app, LeaderScheduler(app, lazy=True), clock=lambda: now)
    task = app.tasks["tests.plain"]
    assert detection.why(task) == ""
    monkeypatch.setattr(Task, "apply_async", wrap_plainly(Task.apply_async))
    now += 59.0
    assert detection.why(task) == ""
    now += 1.0
    assert detection.why(task) != ""
    monkeypatch.undo()
    assert detection.why(task) != ""
    detection.look_again()
    assert detection.why(task) == ""


def test_what_was_replaced_before_this_package_was_imported_is_noticed() -> None:
    program = """
import functools, celery.app.task
original = celery.app.task.Task.apply_async
celery.app.task.Task.apply_async = functools.wraps(original)(lambda *a, **k: original(*a, **k))
from celery_safe_leader._publishing.own_way.originals import is_original
print(is_original(celery.app.task.Task, "apply_async", celery.app.task.Task))
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "False", found.stderr


def test_a_module_whose_file_cannot_be_read_counts_as_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    originals = importlib.import_module("celery_safe_leader._publishing.own_way.originals")
    originals._in_file.cache_clear()
    originals._module_code.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["celery.beat"], "__spec__", None)
        assert not is_original(Scheduler, "apply_entry", Scheduler)
    originals._in_file.cache_clear()
    originals._module_code.cache_clear()
    assert is_original(Scheduler, "apply_entry", Scheduler)
