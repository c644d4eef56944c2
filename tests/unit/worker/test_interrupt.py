"""The interruption of a task: when it comes, when it does not, and what becomes of it then."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject, Retry

from celery_safe_leader import leader_only
from celery_safe_leader._core.events import Lease
from celery_safe_leader._runtime.clock import SystemClock
from celery_safe_leader._runtime.embedded.board import Board
from celery_safe_leader._worker.leader_only import interrupt as revoke
from celery_safe_leader._worker.leader_only.kill import KillOnLoss
from celery_safe_leader._worker.leader_only.leadership import Leadership, LeadershipReader
from celery_safe_leader._worker.leader_only.mark import LeaderOnlyMark
from celery_safe_leader.errors import ConfigurationError, LeadershipLostError

BOUND = 60.0
"""Seconds that nothing here takes."""


class Desk:
    """A worker's board, and runs of tasks in this process."""

    def __init__(self) -> None:
        self.board = Board("desk", "host:1:ab")
        self.place = LeadershipReader(Celery("desk", broker="memory://", set_as_current=False))
        self.marks: list[Any] = []

    def lead(self, seconds: float = BOUND, token: int = 7) -> None:
        now = SystemClock().now()
        self.board.write(Lease(token, now.plus(seconds), now))

    def run(self, body: Any, *, acks_late: bool = False, otherwise: Any = "forward") -> Any:
        backend = SimpleNamespace(mark_as_retry=lambda *args, **kwargs: self.marks.append(args))
        request = SimpleNamespace(id="1", ignore_result=False)
        task = SimpleNamespace(
            name="body",
            acks_late=acks_late,
            request=request,
            ignore_result=False,
            backend=backend,
        )
        leadership = Leadership(self.place, "host:1:ab", 7)
        mark = LeaderOnlyMark(otherwise, revoke_on_loss=True)
        return revoke.run_interruptibly(task, mark, leadership, body, (), {})

    def lose(self, after: float = 0.0) -> None:
        timer = threading.Timer(after, self.board.write, (None,))
        timer.daemon = True
        timer.start()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    made.lead()
    made.place.read()  # as the guard does before each run
    yield made
    made.board.close()


def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def sleep() -> None:
    time.sleep(BOUND)


def count() -> None:
    until = time.monotonic() + BOUND
    while time.monotonic() < until:
        pass


def wait() -> None:
    threading.Event().wait(BOUND)


@pytest.mark.parametrize("body", [sleep, count, wait])
def test_a_body_is_interrupted_when_leadership_is_given_up(desk: Desk, body: Any) -> None:
    assert desk.place.read()  # what was never seen cannot be said to be given up
    desk.lose(0.05)
    # By itself it would come back without an error, after BOUND.
    with pytest.raises(LeadershipLostError, match="the worker resigned") as caught:
        desk.run(body)
    assert caught.value.fencing_token == 7


def test_a_body_is_interrupted_at_the_deadline(desk: Desk) -> None:
    desk.lead(0.1)
    with pytest.raises(LeadershipLostError, match="no renewal was confirmed"):
        desk.run(sleep)


def test_leadership_under_another_token_is_another(desk: Desk) -> None:
    desk.lead(token=8)
    with pytest.raises(LeadershipLostError, match="elected again under token 8"):
        desk.run(sleep)


def test_a_renewed_lease_lets_the_body_go_on(desk: Desk) -> None:
    desk.lead(1.5)
    threading.Timer(0.05, desk.lead).start()
    assert desk.run(lambda: nap(1.8)) == "done"


def test_what_ends_first_is_not_interrupted_and_neither_is_what_follows(desk: Desk) -> None:
    assert desk.run(lambda: "done") == "done"
    desk.lose()
    # As if they had been on their way.
    for number in (revoke._SOFT, revoke.HARD):
        os.kill(os.getpid(), number)
    time.sleep(3 * revoke._POLL)


def test_the_error_is_raised_once(desk: Desk) -> None:
    desk.lose()
    caught = []

    def body() -> str:
        for _ in range(3):
            try:
                time.sleep(0.2)
            except LeadershipLostError as error:
                caught.append(error)
        return "done"

    assert desk.run(body) == "done"
    assert len(caught) == 1


def test_with_acks_late_the_message_goes_back_and_the_result_says_why(desk: Desk) -> None:
    desk.lose()
    with pytest.raises(Reject) as caught:
        desk.run(sleep, acks_late=True)
    assert caught.value.requeue
    ((task_id, error),) = desk.marks
    assert task_id == "1"
    assert isinstance(error, LeadershipLostError)


@pytest.mark.parametrize("otherwise", ["skip", "fail"])
def test_no_run_follows_where_none_is_wanted(desk: Desk, otherwise: str) -> None:
    desk.lose()
    with pytest.raises(LeadershipLostError):
        desk.run(sleep, acks_late=True, otherwise=otherwise)
    assert desk.marks == []


def test_a_body_that_checks_by_itself_ends_in_the_same_way(desk: Desk) -> None:
    def body() -> None:
        raise LeadershipLostError("desk:worker", 7, "as check() says")

    with pytest.raises(Reject, match="as check"):
        desk.run(body, acks_late=True)


def test_an_error_in_cleaning_up_does_not_hide_the_loss(desk: Desk) -> None:
    def body() -> None:
        try:
            sleep()
        finally:
            raise OSError("closed")

    desk.lose()
    with pytest.raises(LeadershipLostError) as caught:
        desk.run(body)
    assert isinstance(caught.value.__cause__, OSError)


def test_what_the_body_decides_about_the_loss_stands(desk: Desk) -> None:
    def body() -> None:
        try:
            sleep()
        except LeadershipLostError as error:
            raise Retry("later") from error

    desk.lose()
    with pytest.raises(Retry):
        desk.run(body, acks_late=True)


def test_an_error_of_the_body_is_its_own(desk: Desk) -> None:
    with pytest.raises(ZeroDivisionError):
        desk.run(lambda: 1 / 0, acks_late=True)


def test_a_thread_is_not_interrupted_but_told_by_check(desk: Desk) -> None:
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(desk.run(lambda: nap(0.2)))
        except BaseException as error:
            outcome.append(error)

    desk.lose()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(BOUND)
    assert outcome == ["done"]


HARD = """
import os, signal, sys, threading, time
sys.path.insert(0, {root!r})
from tests.unit.worker.test_interrupt import Desk
from celery_safe_leader._worker.leader_only import interrupt as revoke

desk = Desk()
desk.lead()
desk.run(lambda: None)
os.kill(os.getpid(), revoke.HARD)
print("lives", flush=True)

def body():
    while True:
        os.kill(os.getpid(), revoke.HARD)

desk.run(body)
"""


def test_the_deadly_signal_is_deadly_only_while_a_body_runs() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", HARD.format(root=root)], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("lives\n", -revoke.HARD), done.stderr


@pytest.mark.parametrize("value", [None, 1, "yes"])
def test_anything_but_true_or_false_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"revoke_on_loss is .*; it must be True or False"):
        leader_only(revoke_on_loss=value)


@pytest.mark.parametrize(
    ("pool", "warned"),
    [("prefork", 0), ("solo", 0), ("thread", 1), ("gevent", 1)],
)
def test_a_pool_that_cannot_interrupt_is_warned_of(
    pool: str, warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)

    @app.task(name="bare", shared=False)
    @leader_only(revoke_on_loss=True)
    def bare() -> None: ...

    @app.task(name="other", shared=False)
    @leader_only
    def other() -> None: ...

    kind = type("TaskPool", (), {"__module__": f"celery.concurrency.{pool}"})
    endings = KillOnLoss(SimpleNamespace(app=app, pool=kind()), None)
    endings.warn_if_unsupported()
    lines = [line for line in caplog.messages if "cannot interrupt" in line]
    assert len(lines) == warned
    assert all(f"pool {pool} " in line and line.endswith(" end bare") for line in lines)
