"""What a store sends for a request, step by step, by the replies that it gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_safe_leader._core.instant import Instant
from celery_safe_leader._core.messages import Await, Observe, Renew, Request, Woken
from celery_safe_leader._store.commands import Block, Connect, Resend, Send, Step, StoreCommands
from celery_safe_leader._store.keys import ElectionKeys
from celery_safe_leader.errors import StoreRefusedError, StoreUnavailableError

NOW = Instant(1.0, 2.0, 3.0)
RENEW = Renew(NOW, "me", 7, "n", 10.0, 10.0)
RAW = [b"accepted", b"v", b"e", b"me", b"7", b"10000", 0]
INFO: list[Any] = [{}]


def commands(wait_replicas: int = 0) -> StoreCommands:
    return StoreCommands(ElectionKeys("shop"), wait_replicas, 1.5)


def run(store: StoreCommands, request: Request, *outcomes: Any) -> tuple[list[Step], Any]:
    """Perform a request; return its steps and its reply."""
    left: Iterator[Any] = iter(outcomes)
    steps, asked = store.execute(request), []
    try:
        step = next(steps)
        while True:
            asked.append(step)
            outcome = next(left)
            failed = isinstance(outcome, Exception)
            step = steps.throw(outcome) if failed else steps.send(outcome)
    except StopIteration as done:
        assert not list(left)
        return asked, done.value


def names(steps: list[Step]) -> list[Any]:
    """Return the kind of each step, and for those that send the names of the commands."""
    sent = (Send, Resend)
    return [
        [str(command[0]) for command in step.commands] if isinstance(step, sent) else type(step)
        for step in steps
    ]


def test_the_server_is_checked_after_the_first_request_only() -> None:
    store = commands()
    steps, answer = run(store, RENEW, [RAW], INFO)
    assert names(steps) == [["EVALSHA"], ["INFO"]]
    assert (answer.record.holder, answer.confirmed) == ("me", True)
    assert names(run(store, RENEW, [RAW])[0]) == [["EVALSHA"]]


def test_a_check_that_fails_is_not_repeated() -> None:
    store = commands()
    assert names(run(store, RENEW, [RAW], redis.ResponseError("no"))[0])[1:] == [["INFO"]]
    assert names(run(store, RENEW, [RAW])[0]) == [["EVALSHA"]]


@pytest.mark.parametrize(("confirmations", "confirmed"), [(1, False), (2, True)])
def test_wait_goes_along_in_the_same_flight(confirmations: int, confirmed: bool) -> None:
    steps, answer = run(commands(2), RENEW, [RAW, confirmations], INFO)
    assert names(steps)[0] == ["EVALSHA", "WAIT"]
    assert isinstance(steps[0], Send)
    assert steps[0].commands[1] == ("WAIT", 2, 1500)
    assert answer.confirmed is confirmed


def test_what_needs_no_confirmation_does_not_wait() -> None:
    steps, _ = run(commands(2), Observe(NOW, "n", 10.0, 0), [RAW], INFO)
    assert names(steps)[0] == ["EVALSHA"]


@pytest.mark.parametrize("in_flight", [False, True])
def test_an_unknown_script_is_sent_whole(in_flight: bool) -> None:
    unknown = redis.exceptions.NoScriptError("NOSCRIPT")
    first = [unknown, 0] if in_flight else unknown
    steps, _ = run(commands(1), RENEW, first, [RAW, 1], INFO)
    assert names(steps) == [["EVALSHA", "WAIT"], ["EVAL", "WAIT"], ["INFO"]]


def test_after_ask_the_same_commands_are_sent_to_the_other_node() -> None:
    ask = redis.exceptions.AskError("1 127.0.0.1:7")
    steps, _ = run(commands(1), RENEW, ask, [RAW, 1], INFO)
    assert isinstance(steps[0], Send)
    assert steps[1] == Resend(ask, steps[0].commands)


def test_after_moved_nothing_is_sent_again() -> None:
    with pytest.raises(StoreRefusedError, match="now on another node of the cluster"):
        run(commands(), RENEW, redis.exceptions.MovedError("1 127.0.0.1:7"))


def test_without_info_each_call_goes_over_a_connection_that_it_names() -> None:
    store = commands()
    store.server_identity.connected()
    steps, _ = run(store, RENEW, redis.ResponseError("NOINFO no"), None, [RAW])
    assert names(steps) == [["EVALSHA"], Connect, ["EVALSHA"]]
    assert isinstance(steps[2], Send)
    assert steps[2].commands[0][-1] == store.server_identity.label
    assert names(run(store, RENEW, None, [RAW])[0]) == [Connect, ["EVALSHA"]]


def test_waiting_is_one_step() -> None:
    request = Await(NOW, 2.0)
    assert run(commands(), request, True) == ([Block(request)], Woken(True))
    with pytest.raises(StoreUnavailableError, match="wake"):
        run(commands(), request, redis.ConnectionError("gone"))
