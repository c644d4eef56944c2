"""Tasks that only the elected worker runs: ``@leader_only``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args, overload

# Private, and what shared_task itself uses (celery/app/__init__.py, read in 5.4.0 to 5.7.0).
from celery import Celery, Task, _state
from celery.local import PromiseProxy, Proxy

from celery_safe_leader import conf
from celery_safe_leader._worker.leader_only.leadership import CURRENT, LEADERSHIP, Leadership
from celery_safe_leader._worker.leader_only.mark import LeaderOnlyMark, Otherwise, mark_of
from celery_safe_leader._worker.leader_only.queue import declaration
from celery_safe_leader._worker.leader_only.run_guard import guard_maps, guarded
from celery_safe_leader.bootsteps import install
from celery_safe_leader.errors import ConfigurationError, LifecycleError

__all__ = ["Leadership", "current_leadership", "leader_only", "leader_route"]

T = TypeVar("T")


@overload
def leader_only(target: T) -> T: ...
@overload
def leader_only(*, otherwise: Otherwise = ..., revoke_on_loss: bool = ...) -> Callable[[T], T]: ...


def leader_only(
    target: Any = None, *, otherwise: Otherwise = "forward", revoke_on_loss: bool = False
) -> Any:
    """Let a task run only on the elected worker.

    Put it below or above ``@app.task`` or ``@shared_task``, or on a task class that has its own
    ``run``. Calls go to the leader queue from every process that has imported the task. It also
    does what ``install(app)`` does.

    Args:
        target: A function, a task or a task class.
        otherwise: What happens to a run whose worker has just been demoted: ``forward`` it to
            the leader queue again, ``skip`` it (a success with the result ``None``: chords and
            chains go on) or ``fail`` it with ``NotLeaderError``.
        revoke_on_loss: End a run that loses its leadership: ``LeadershipLostError`` is raised in
            it, and after 3 s its pool process is killed. With ``acks_late`` and ``otherwise`` left
            at ``forward``, its message goes back to the queue for the next leader; else the task
            fails. Pools other than prefork and solo cannot interrupt a task.

    Raises:
        ConfigurationError: An argument is not allowed, or the target cannot be run.

    ``apply()``, eager mode and direct calls run the body unguarded, and send nothing.
    """
    if otherwise not in get_args(Otherwise):
        raise ConfigurationError("otherwise", repr(otherwise), "'forward', 'skip' or 'fail'")
    if not isinstance(revoke_on_loss, bool):
        raise ConfigurationError("revoke_on_loss", repr(revoke_on_loss), "True or False")
    mark = LeaderOnlyMark(otherwise, revoke_on_loss)
    return (lambda found: _mark(found, mark)) if target is None else _mark(target, mark)


def current_leadership() -> Leadership:
    """Return the leadership under which the current leader-only task runs.

    Raises:
        LifecycleError: No leader-only task of a worker runs here: the call was direct, with
            ``apply()`` or in eager mode, or comes from a thread that the task started.
    """
    leadership = CURRENT.get()
    task = _state.get_current_task()
    if leadership is None and task is not None:
        leadership = getattr(task.request, LEADERSHIP, None)
    if leadership is None:
        raise LifecycleError(
            "no leader-only task of a worker runs here: direct calls, apply() and eager mode "
            "have no leadership, and neither do threads that a task starts"
        )
    return leadership


def leader_route(
    name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any
) -> dict[str, Any] | None:
    """Route leader-only tasks to the leader queue; a router for ``task_routes``.

    ``@leader_only`` puts it first among the app's routes.
    """
    # Celery asks for the routes of .map() by the name of the task that is called for each item.
    if task is None or (mark_of(task) is None and mark_of(task.app.tasks.get(name)) is None):
        return None
    return {"queue": declaration(task.app, conf.leader_names(task.app)[1])}


def _mark(target: Any, mark: LeaderOnlyMark) -> Any:
    if type(target) is PromiseProxy:
        target.__then__(lambda: _mark_task(target._get_current_object(), mark))
    elif type(target) is Proxy:
        # A shared task: each app makes its own copy.
        _for_each_app(lambda app: _mark_shared(app, target, mark))
    elif isinstance(target, Task):
        _mark_task(target, mark)
    elif isinstance(target, type) and issubclass(target, Task):
        _mark_class(target, mark)
    elif callable(target) and not isinstance(target, type):
        target = guarded(target, mark)
    else:
        raise ConfigurationError(
            "@leader_only", f"on {target!r}", "on a function, a task or a task class"
        )
    _for_each_app(_prepare)
    for app in _state._get_active_apps():
        _prepare_soon(app)
    return target


def _mark_class(kind: Any, mark: LeaderOnlyMark) -> None:
    if kind.run is Task.run:
        raise ConfigurationError(
            "@leader_only", f"on {kind.__qualname__}", "on a class with its own run()"
        )
    kind.run = guarded(kind.run, mark)


def _mark_task(task: Any, mark: LeaderOnlyMark) -> None:
    if mark_of(task) is None:
        task.run = guarded(task.run, mark)


def _mark_shared(app: Celery, proxy: Any, mark: LeaderOnlyMark) -> None:
    before = _state._tls.current_app
    app.set_current()
    try:
        _mark_task(proxy._get_current_object(), mark)
    finally:
        _state._set_current_app(before)


def _for_each_app(action: Callable[[Celery], None]) -> None:
    """Call ``action`` for each app of this process, now or later, once it knows its tasks."""

    def finalizing(app: Celery) -> None:
        app.on_after_finalize.connect(
            lambda sender, **_: action(sender), weak=False, dispatch_uid=id(action)
        )

    _state.connect_on_app_finalize(finalizing)
    for app in _state._get_active_apps():
        if app.finalized:
            action(app)


def _prepare_soon(app: Celery) -> None:
    """Prepare an app before it sends anything: a process that only sends may never finalize it."""
    if app.configured:
        _prepare(app)
    else:
        app.on_after_configure.connect(
            lambda sender, **_: _prepare(sender), weak=False, dispatch_uid=id(_prepare)
        )


def _prepare(app: Celery) -> None:
    """Install this package and the route in an app."""
    routes = app.conf.task_routes
    if routes is None:
        routes = []
    elif not isinstance(routes, (list, tuple)):
        routes = [routes]
    if leader_route not in routes:
        install(app)
        app.conf.task_routes = [leader_route, *routes]
    if app.finalized:
        guard_maps(app)
