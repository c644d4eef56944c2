"""stop() and shutdown() in signal handlers."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import pytest

from celery_safe_leader import LifecycleError, create_async_safe_redis_leader
from tests.support.candidates.fleet import Candidate
from tests.support.candidates.resigned import leave_resigned
from tests.support.processes import Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_handler_may_stop_while_the_main_thread_waits(
    quick_server: Server, key: str, children: Children, verb: str
):
    program = "tests.integration.library.signal_program"
    child = children.module(program, quick_server.url, key, verb)
    child.wait_for_line('"waits"', 30)
    time.sleep(0.3)
    # By itself it would wait for 300 s.
    assert child.stop(60) == 0, child.output
    said = json.loads(child.lines[-1])
    assert said["threads"] == ["MainThread"]


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_signal_within_the_handler_of_another_waits_for_the_first_ones_end(
    quick_server: Server, key: str, children: Children, verb: str
):
    program = "tests.integration.library.signal_program"
    child = children.module(program, quick_server.url, key, verb, "LOCK")
    child.wait_for_line('"waits"', 30)
    time.sleep(0.3)
    child.signal(signal.SIGTERM)
    assert child.wait(60) == 0, child.output
    said = [json.loads(line) for line in child.lines if '"handler"' in line]
    assert [each["handler"] for each in said] == ["begins", "begins", "ends", "ends"]
    assert [each["closed"] for each in said[2:]] == [verb == "shutdown"] * 2


@pytest.mark.parametrize("verb", ["stop", "shutdown"])
def test_a_signal_while_redis_py_closes_a_pool_waits_for_the_first_ones_end(
    quick_server: Server, key: str, children: Children, verb: str
):
    # redis-py 5.0 closes it under a lock that the same thread cannot take twice.
    program = "tests.integration.library.signal_program"
    child = children.module(program, quick_server.url, key, verb, "POOL")
    child.wait_for_line('"waits"', 30)
    time.sleep(0.3)
    child.signal(signal.SIGTERM)
    assert child.wait(60) == 0, child.output
    said = [json.loads(line) for line in child.lines]
    assert [each for each in said if "interrupts" in each], child.output
    handlers = [each["handler"] for each in said if "handler" in each]
    assert handlers == ["begins", "begins", "ends", "ends"]


@pytest.mark.parametrize("shell", ["blocking", "asyncio"])
def test_sigterm_at_any_moment_ends_a_candidate_in_order(
    quick_server: Server, key: str, children: Children, shell: str
):
    # Again and again, so that it comes in the middle of a renewal, a read, a start.
    for turn in range(6):
        candidate = Candidate(
            children, quick_server.url, key, ttl=0.3, wait=0.05, shell=shell, name=f"turn {turn}"
        )
        candidate.wait_ready()
        time.sleep(0.13 * turn)
        candidate.terminate()
        assert candidate.noise == []


def test_an_event_loop_may_stop_on_a_signal(quick_server: Server, key: str):
    async def main() -> float:
        leader: Any = create_async_safe_redis_leader(
            redis=quick_server.url, key=key, ttl=300, wait=300
        )
        stopping: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: stopping.append(asyncio.create_task(leader.stop()))
        )
        await leader.elect()
        loop.call_later(0.3, os.kill, os.getpid(), signal.SIGUSR1)
        began = time.monotonic()
        with pytest.raises(LifecycleError):
            await leader.wait_until_leader()
        took = time.monotonic() - began
        await leader.shutdown()
        await asyncio.gather(*stopping)
        loop.remove_signal_handler(signal.SIGUSR1)
        return took

    # By itself it would have waited without limit.
    assert 0.25 < asyncio.run(main()) < 60


def test_a_leader_that_is_terminated_leaves_a_resigned_record(
    quick_server: Server, key: str, children: Children
):
    leave_resigned(quick_server.url, key)
    candidate = Candidate(children, quick_server.url, key, ttl=5.0, wait=0.1)
    wait_until(lambda: candidate.leads, 30)
    candidate.terminate()
    assert quick_server.client().hget(f"{{leader:{key}}}:lease", "resigned") == "1"
    assert [event["event"] for event in candidate.events] == ["elected", "demoted"]
    assert candidate.named("demoted")[0]["reason"] == "shutdown"
