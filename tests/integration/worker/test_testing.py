"""`celery_safe_leader.testing`, as the page on tests shows it: no Redis, no process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_safe_leader import current_leadership, install, leader_only
from celery_safe_leader.errors import (
    ConfigurationError,
    LeadershipLostError,
    LifecycleError,
    NotLeaderError,
)
from celery_safe_leader.testing import GrantedLeadership, granted_leadership


@pytest.fixture
def leadership() -> Iterator[GrantedLeadership]:
    with granted_leadership() as granted:
        yield granted


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery("shop", broker="memory://", backend="cache+memory://", set_as_current=False)
    install(made)

    @made.task(name="token", shared=False)
    @leader_only
    def token() -> int:
        leadership = current_leadership()
        leadership.check()
        return leadership.token

    @made.task(name="fails", shared=False)
    @leader_only(otherwise="fail")
    def fails() -> None: ...

    @made.task(name="loses", shared=False)
    @leader_only
    def loses(granted: Any) -> None:
        leadership = current_leadership()
        assert leadership.remaining() > 0
        granted.end()
        assert leadership.lost.is_set()
        granted.grant()
        leadership.check()

    yield made
    made.close()


def test_every_way_to_call_a_task_without_a_worker_sees_the_leadership(
    app: Celery, leadership: GrantedLeadership
) -> None:
    task = app.tasks["token"]
    assert task() == task.apply().get() == 1
    leadership.end()
    assert leadership.grant() == 2
    app.conf.task_always_eager = True
    assert task.delay().get() == 2
    assert (leadership.runs, leadership.tenures, leadership.token) == (3, 2, 2)


def test_a_task_notices_the_end_and_that_another_tenure_is_another(
    app: Celery, leadership: GrantedLeadership
) -> None:
    with pytest.raises(LeadershipLostError, match="elected again under token 2"):
        app.tasks["loses"](leadership)


def test_without_a_grant_it_is_as_outside_of_a_test(app: Celery) -> None:
    with pytest.raises(LifecycleError):
        app.tasks["token"]()
    with granted_leadership(leads=False, token=7) as granted:
        with pytest.raises(LifecycleError):
            app.tasks["token"]()
        granted.grant()
        assert app.tasks["token"]() == 7
        for again in (granted.grant, granted_leadership().__enter__):
            with pytest.raises(LifecycleError):
                again()
    with pytest.raises(LifecycleError):
        app.tasks["token"]()


def test_a_short_lease_runs_out(app: Celery) -> None:
    with granted_leadership(leads=False) as granted:
        granted.grant(seconds=0)
        with pytest.raises(LifecycleError):
            app.tasks["token"]()


@pytest.mark.parametrize("token", [0, -1, 2**53, True, "1", None, 1.0])
def test_a_token_that_no_election_gives_is_refused(token: Any) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"token is .*; it must be a whole number from 1"),
        granted_leadership(token=token),
    ):
        pass
    with granted_leadership():  # nothing is left open
        pass


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**400, "1", None, True])
def test_a_lease_of_no_length_is_refused(seconds: Any) -> None:
    with granted_leadership(leads=False) as granted:
        with pytest.raises(ConfigurationError, match=r"seconds is .*; it must be a number of sec"):
            granted.grant(seconds=seconds)
        assert granted.grant() == 1


@pytest.mark.filterwarnings("ignore")
def test_a_worker_in_a_thread_runs_leader_only_tasks_without_redis(app: Celery) -> None:
    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        first = app.tasks["token"].delay().get(timeout=30)
        assert first > 1_000_000_000_000
        with granted_leadership() as granted:
            assert app.tasks["token"].delay().get(timeout=30) == 1
            granted.end()
            with pytest.raises(NotLeaderError):
                app.tasks["fails"].delay().get(timeout=30)
        assert app.tasks["token"].delay().get(timeout=30) == first
