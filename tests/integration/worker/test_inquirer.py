"""The questions of a worker, put to a real server that answers, hangs, refuses, comes back."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_safe_leader._ledger.acceptance import Acceptance, AcceptanceOutcome
from celery_safe_leader._store.connection.client import make_client
from celery_safe_leader._store.keys import LedgerKeys
from celery_safe_leader._worker.dedup.inquirer import BACKLOG, LONGEST_LIMIT, Inquirer, _InquiryLine
from tests.support.network.proxy import Proxy
from tests.support.processes import wait_until
from tests.support.servers import Server

FIRST = Acceptance(AcceptanceOutcome.FIRST, "a")
TROUBLE = "Until Redis answers again"


@pytest.fixture
def make_inquirer(server: Server) -> Iterator[Callable[..., Inquirer]]:
    made: list[Inquirer] = []

    def make(url: str = "", key: str = "shop", **options: Any) -> Inquirer:
        limit = LONGEST_LIMIT
        client = make_client(url or server.url, options, connect_timeout=1, read_timeout=limit)
        made.append(Inquirer(client, "the server", key, 100.0))
        return made[-1]

    yield make
    for inquirer in made:
        inquirer.close()


@pytest.fixture
def inquirer(make_inquirer: Callable[..., Inquirer]) -> Inquirer:
    inquirer = make_inquirer()
    inquirer.start()
    return inquirer


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_first_same_other(inquirer: Inquirer) -> None:
    assert inquirer.ask("shop", "run", "a") == FIRST
    assert inquirer.ask("shop", "run", "a") == Acceptance(AcceptanceOutcome.SAME, "a")
    assert inquirer.ask("shop", "run", "b") == Acceptance(AcceptanceOutcome.OTHER, "a")
    assert inquirer.ask("another", "run", "b") == Acceptance(AcceptanceOutcome.FIRST, "b")


def test_a_restarted_server_that_lost_its_scripts_is_asked_without_a_gap(
    inquirer: Inquirer, server: Server
) -> None:
    server.client().script_flush()
    assert inquirer.ask("shop", "run", "a") == FIRST


def test_a_hanging_server_costs_one_question_and_then_nothing(
    inquirer: Inquirer,
    server: Server,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert inquirer.ask("shop", "before", "a") == FIRST
    put: list[str] = []
    send = _InquiryLine.execute_command

    def spied(line: _InquiryLine, *command: Any) -> Any:
        put.append(threading.current_thread().name)
        return send(line, *command)

    monkeypatch.setattr(_InquiryLine, "execute_command", spied)
    server.process.pause()
    for number in range(50):
        assert inquirer.ask("shop", f"run-{number}", "a") is None
        if number == 0:
            # The one that waited; how long is measured by `make bench`.
            assert put[0] == threading.current_thread().name
            assert not inquirer.answers
    server.process.resume()
    assert put.count(threading.current_thread().name) == 1
    assert len(warnings_of(caplog)) == 1
    assert "the server: no answer from Redis" in warnings_of(caplog)[0]
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.late == 50
    assert inquirer.ask("shop", "run-49", "b") == Acceptance(AcceptanceOutcome.OTHER, "a")
    # It is said after the connection was handed over.
    wait_until(lambda: len(warnings_of(caplog)) == 2, 30)


def test_a_start_with_a_hanging_server_does_not_hang(
    make_inquirer: Callable[..., Inquirer], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.process.pause()
    inquirer = make_inquirer()
    # Both come back while the server hangs, which it does until it is told otherwise.
    inquirer.start()
    assert not inquirer.answers
    assert inquirer.ask("shop", "run", "a") is None
    server.process.resume()
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.late == 1


def test_only_the_newest_unanswered_questions_are_kept(inquirer: Inquirer, server: Server) -> None:
    server.stop()
    for number in range(BACKLOG + 10):
        assert inquirer.ask("shop", f"run-{number}", "a") is None
    server.start()
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.late == BACKLOG
    assert inquirer.ask("shop", "run-9", "b") == Acceptance(AcceptanceOutcome.FIRST, "b")
    assert inquirer.ask("shop", "run-10", "b") == Acceptance(AcceptanceOutcome.OTHER, "a")


def test_a_run_that_turns_out_to_have_run_twice_is_an_error_that_names_it(
    inquirer: Inquirer, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.process.pause()
    assert inquirer.ask("shop", "run", "a") is None
    assert inquirer.ask("shop", "run", "b") is None
    server.process.resume()
    wait_until(lambda: inquirer.answers, 30)
    assert (inquirer.late, inquirer.doubled) == (2, 1)
    (error,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert error.getMessage() == (
        "Periodic run run of shop was executed twice: publication b was let through unchecked, "
        "and a had been accepted before"
    )


def test_one_question_that_redis_refuses_does_not_end_the_others(
    inquirer: Inquirer, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().rpush(LedgerKeys("shop").accepted("broken"), "a list")
    assert inquirer.ask("shop", "broken", "a") is None
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.ask("shop", "run", "a") == FIRST
    (error,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "Periodic run broken cannot be recorded" in error.getMessage()
    assert "the key holds something that is not this package's" in error.getMessage()


def test_a_replica_is_not_taken_for_well_because_a_trial_went_well_a_moment_ago(
    inquirer: Inquirer, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    client = server.client()
    client.replicaof("127.0.0.1", "1")  # nobody is there
    assert inquirer.ask("shop", "run", "a") is None
    assert "this Redis is a read-only replica" in warnings_of(caplog)[0]
    tried = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    wait_until(lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"] > tried, 30)
    assert not inquirer.answers
    client.replicaof("NO", "ONE")
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.late == 1
    assert inquirer.ask("shop", "run", "b") == Acceptance(AcceptanceOutcome.OTHER, "a")


def test_a_missing_right_and_a_wrong_password_are_named_at_the_start(
    make_inquirer: Callable[..., Inquirer], server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.client().execute_command("ACL", "SETUSER", "poor", "on", ">Zq9Xv7", "~*", "+@connection")
    for password, said in (("Zq9Xv7", "lacks a right"), ("wrong-Zq9", "refuses the user name")):
        caplog.clear()
        inquirer = make_inquirer(username="poor", password=password)
        inquirer.start()
        assert not inquirer.answers
        (warning,) = warnings_of(caplog)
        assert TROUBLE in warning
        assert said in warning
        assert "Zq9" not in caplog.text


@pytest.mark.parametrize("cut", ["killed", "restarted", "link"])
def test_a_connection_that_was_cut_is_replaced_and_the_question_asked_again(
    make_inquirer: Callable[..., Inquirer],
    server: Server,
    proxy: Proxy,
    cut: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inquirer = make_inquirer(proxy.url())
    inquirer.start()
    assert inquirer.ask("shop", "run", "a") == FIRST
    if cut == "killed":
        server.client().client_kill_filter(_type="normal", skipme=True)
    elif cut == "restarted":
        server.stop()
        server.start()
    else:
        proxy.cut()
    assert inquirer.ask("shop", "other", "a") == FIRST
    assert inquirer.ask("shop", "other", "b") == Acceptance(AcceptanceOutcome.OTHER, "a")
    assert warnings_of(caplog) == []
    assert inquirer.late == 0


def test_a_server_that_is_down_is_asked_once_for_each_loss(
    inquirer: Inquirer, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.stop()
    assert [inquirer.ask("shop", f"run-{number}", "a") for number in range(9)] == [None] * 9
    assert len(warnings_of(caplog)) == 1
    server.start()
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.late == 9


def test_a_slow_link_is_waited_for_as_long_as_it_takes(
    make_inquirer: Callable[..., Inquirer], proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.delay(0.1)
    inquirer = make_inquirer(proxy.url())
    inquirer.start()
    wait_until(lambda: inquirer.answers, 30)
    assert inquirer.limit >= 0.4
    caplog.clear()  # it may have said that the first connection took long
    for number in range(5):
        run = f"run-{number}"
        assert inquirer.ask("shop", run, "a") == FIRST
        assert inquirer.ask("shop", run, "b") == Acceptance(AcceptanceOutcome.OTHER, "a")
    assert not any("without a check" in line for line in warnings_of(caplog))


def test_busy_threads_of_the_worker_are_no_trouble_of_redis(
    make_inquirer: Callable[..., Inquirer], caplog: pytest.LogCaptureFixture
) -> None:
    # Each of six threads keeps the interpreter for 0.15 s: whoever waits for it waits for longer
    # than the limit, and that must not count as silence of Redis.
    inquirer, stop, interval = make_inquirer(), threading.Event(), sys.getswitchinterval()
    inquirer.start()

    def work() -> None:
        while not stop.is_set():
            sum(range(1000))

    threads = [threading.Thread(target=work) for _ in range(6)]
    sys.setswitchinterval(0.15)
    for thread in threads:
        thread.start()
    try:
        answers = [inquirer.ask("shop", f"run-{number}", "a") for number in range(4)]
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        for thread in threads:
            thread.join()
    assert answers == [FIRST] * 4
    assert warnings_of(caplog) == []


def test_reconnecting_any_number_of_times_leaves_one_connection(
    inquirer: Inquirer, server: Server
) -> None:
    client = server.client()
    for number in range(120):  # a pool of redis-py makes no more than 100
        client.client_kill_filter(_type="normal", skipme=True)
        inquirer.ask("shop", f"run-{number}", "a")
        wait_until(lambda: inquirer.answers, 30, interval=0.001)
    assert len(client.client_list()) == 2
    inquirer.close()
    wait_until(lambda: len(client.client_list()) == 1, 30)
    inquirer.close()
    assert inquirer.ask("shop", "run", "a") is None
