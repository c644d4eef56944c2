"""What a store sends for a request, step by step, by the replies that it gets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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


def commands(wait_replicas: int = 0, role: str = "") -> StoreCommands:
    return StoreCommands(ElectionKeys("shop", role), wait_replicas, 1.5)


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


@pytest.mark.parametrize("said", ["NOINFO no", "NOEPOCH role, master_replid or run_id"])
def test_without_info_each_call_goes_over_a_connection_that_it_names(said: str) -> None:
    store = commands()
    store.server_identity.connected()
    steps, _ = run(store, RENEW, redis.ResponseError(said), None, [RAW])
    assert names(steps) == [["EVALSHA"], Connect, ["EVALSHA"]]
    assert isinstance(steps[2], Send)
    assert steps[2].commands[0][-1] == store.server_identity.label
    assert names(run(store, RENEW, None, [RAW])[0]) == [Connect, ["EVALSHA"]]


LOOKED = [*RAW, b"1 g 1 whole/m beat", b"1 g 1 whole/m beat", b"1"]
DENIED = redis.exceptions.NoPermissionError("may not access one of the keys")
OTHER_SLOT = redis.exceptions.ClusterCrossSlotError("keys in several slots")
MIGRATING = redis.exceptions.TryAgainError("multiple keys during rehashing")


def keys_of(step: Step) -> int:
    """Return how many keys a script is sent with."""
    assert isinstance(step, Send)
    number = step.commands[0][2]
    assert isinstance(number, int)
    return number


@pytest.mark.parametrize("in_flight", [False, True])
@pytest.mark.parametrize(("refusal", "at_the_next"), [(DENIED, 1), (OTHER_SLOT, 1), (MIGRATING, 3)])
def test_a_renewal_whose_look_is_refused_is_sent_at_once_without_it(
    refusal: Exception, at_the_next: int, in_flight: bool
) -> None:
    store = commands(1, "beat")
    first = [refusal, 0] if in_flight else refusal
    steps, answer = run(store, RENEW, first, [RAW, 1], INFO)
    assert [keys_of(step) for step in steps[:2]] == [3, 1]
    assert names(steps) == [["EVALSHA", "WAIT"], ["EVALSHA", "WAIT"], ["INFO"]]
    assert (answer.look, answer.confirmed, answer.record.holder) == (None, True, "me")
    # Rights and slots are not asked for again in this tenure; a migration ends.
    steps, answer = run(store, RENEW, [LOOKED if at_the_next == 3 else RAW, 1])
    assert keys_of(steps[0]) == at_the_next
    assert (answer.look is None) is (at_the_next == 1)
    steps, answer = run(store, replace(RENEW, token=8), [LOOKED, 1])
    assert answer.look is not None


@pytest.mark.parametrize(
    "error",
    [
        redis.exceptions.ReadOnlyError("replica"),
        redis.exceptions.OutOfMemoryError("full"),
        redis.ResponseError("WRONGTYPE"),
        redis.exceptions.MovedError("1 127.0.0.1:7"),
    ],
)
def test_what_is_refused_for_another_reason_is_not_sent_again(error: Exception) -> None:
    with pytest.raises(StoreRefusedError):
        run(commands(0, "beat"), RENEW, error)


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.TimeoutError("late")])
def test_a_look_without_an_answer_is_not_sent_again(error: Exception) -> None:
    with pytest.raises(StoreUnavailableError):
        run(commands(0, "beat"), RENEW, error)


def test_without_info_a_renewal_looks_too() -> None:
    store = commands(0, "beat")
    store.server_identity.connected()
    steps, answer = run(store, RENEW, redis.ResponseError("NOINFO no"), None, [LOOKED])
    assert [type(step) for step in steps] == [Send, Connect, Send]
    assert keys_of(steps[2]) == 4
    assert answer.look is not None


def announcing(role: str = "") -> StoreCommands:
    store = commands(0, role)
    store.announcements.begin(lambda: ("me", "{}"), 10.0)
    return store


def later(request: Any, seconds: float) -> Any:
    return replace(request, sent_at=NOW.plus(seconds))


OBSERVE = Observe(NOW, "n", 10.0, 0)
SAID = [*RAW, b"0"]


def test_a_candidate_says_something_at_most_once_per_ttl() -> None:
    store = announcing()
    assert keys_of(run(store, OBSERVE, [SAID], INFO)[0][0]) == 2
    assert keys_of(run(store, later(OBSERVE, 9.9), [RAW])[0][0]) == 1
    assert keys_of(run(store, later(RENEW, 10.0), [SAID])[0][0]) == 2
    assert keys_of(run(store, later(RENEW, 13.0), [RAW])[0][0]) == 1


def test_what_had_no_answer_is_said_again() -> None:
    store = announcing()
    with pytest.raises(StoreUnavailableError):
        run(store, OBSERVE, redis.TimeoutError("late"))
    assert keys_of(run(store, later(OBSERVE, 1.0), [SAID], INFO)[0][0]) == 2


@pytest.mark.parametrize(("refusal", "told"), [(DENIED, 1), (OTHER_SLOT, 1), (MIGRATING, 0)])
@pytest.mark.parametrize(("role", "keys"), [("beat", [4, 3]), ("worker", [2, 1])])
def test_what_may_not_be_said_costs_no_renewal(
    refusal: Exception, told: int, role: str, keys: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    store = announcing(role)
    plain = LOOKED if role == "beat" else RAW
    steps, answer = run(store, RENEW, refusal, [plain], INFO)
    assert [keys_of(step) for step in steps[:2]] == keys
    assert (answer.look is not None, answer.record.holder) == (role == "beat", "me")
    # Not again with each request, and the slot's migration ends before a right is given.
    assert keys_of(run(store, later(RENEW, 9.0), [plain])[0][0]) == keys[1]
    again = 10.0 if refusal is MIGRATING else 610.0
    assert keys_of(run(store, later(RENEW, again), refusal, [plain])[0][0]) == keys[0]
    said = [each for each in caplog.records if "does not show this candidate" in each.message]
    assert len(said) == told


def test_where_the_look_is_to_blame_what_is_said_is_not() -> None:
    store = announcing("beat")
    steps, answer = run(store, RENEW, DENIED, DENIED, [RAW], INFO)
    assert [keys_of(step) for step in steps[:3]] == [4, 3, 1]
    assert answer.look is None
    steps, _ = run(store, later(RENEW, 3.0), [SAID])
    assert keys_of(steps[0]) == 2, "with the next one, without the look"


def test_without_info_something_is_said_too() -> None:
    store = announcing("beat")
    store.server_identity.connected()
    steps, answer = run(store, RENEW, redis.ResponseError("NOINFO no"), None, [[*LOOKED, b""]])
    assert keys_of(steps[2]) == 5
    assert answer.look is not None


def test_what_cannot_be_shown_costs_no_request() -> None:
    def read() -> tuple[str, str]:
        raise ValueError("hostname")

    store = commands()
    store.announcements.begin(read, 10.0)
    assert keys_of(run(store, OBSERVE, [RAW], INFO)[0][0]) == 1


def test_waiting_is_one_step() -> None:
    request = Await(NOW, 2.0)
    assert run(commands(), request, True) == ([Block(request)], Woken(True))
    with pytest.raises(StoreUnavailableError, match="wake"):
        run(commands(), request, redis.ConnectionError("gone"))
