"""``leader probe``: what it answers, and that it does not wait."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_safe_leader import create_safe_redis_leader
from celery_safe_leader._operations.health import probe_command
from tests.integration.operations.commands import Found, invoke
from tests.integration.operations.test_candidates_shown import Crowd
from tests.support.network.ports import free_port
from tests.support.processes import wait_until
from tests.support.servers import ExternalServer, Server
from tests.support.servers.rights import VIEWER_BEFORE, printed, user_with, words_of

HERE = socket.gethostname()
ME = os.getpid()


@pytest.fixture
def crowd(shared_server: ExternalServer, key: str) -> Crowd:
    return Crowd(shared_server, key)


@pytest.fixture
def probe(
    shared_server: ExternalServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Found]:
    """The time limit is for servers that are away: a busy machine may need longer than that."""
    monkeypatch.setattr("celery_safe_leader._operations.health.probe_command._LIMIT", 30.0)
    return lambda *words: invoke(shared_server.url, key, "probe", *words)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    yield process
    process.kill()
    process.wait()


def say(crowd: Crowd, pid: int = ME, **more: Any) -> str:
    name = f"{HERE}:{pid}:abcd"
    crowd.say(name, **{"host": HERE, "pid": pid, **more})
    return name


LIVE, READY, LEADER = ("--live", "--pid", str(ME)), ("--ready",), ("--leader",)


@pytest.mark.parametrize(
    ("said", "live", "ready"),
    [
        ({}, 0, 0),
        ({"ticked": 75.0}, 1, 1),
        ({"ago": 31.0}, 0, 1),
        ({"ago": 31.0, "ticked": 75.0}, 0, 1),
        ({"ago": 11.0}, 0, 0),
        (None, 0, 1),
        ({"host": "other"}, 0, 1),
    ],
)
def test_what_a_candidate_said_decides(
    crowd: Crowd, probe: Callable[..., Found], said: Any, live: int, ready: int
) -> None:
    """Silence is no reason to end a process: it may have left the election for a while."""
    if said is not None:
        say(crowd, **said)
    assert probe(*LIVE).code == live
    assert probe(*READY).code == ready
    assert probe(*READY, "--pid", str(ME)).code == ready
    assert probe(*READY, "--pid", "1").code == 1


def test_who_holds_the_lease_leads(crowd: Crowd, probe: Callable[..., Found]) -> None:
    name = say(crowd)
    assert probe(*LEADER).code == 1, "there is no record"
    for silent_for, code in ((0.0, 0), (25.0, 0), (45.0, 2), (61.0, 1)):
        crowd.write(holder=name, silent_for=silent_for)
        assert probe(*LEADER).code == code, silent_for
    crowd.write(holder=name)
    assert probe(*LEADER, "--pid", str(ME)).code == 0
    assert probe(*LEADER, "--pid", "1").code == 1
    assert probe(*LEADER, "--role", "worker").code == 1
    for holder, resigned in ((f"x{name}", "0"), (f"{name}:x:y", "0"), (name, "1")):
        crowd.write(holder=holder, resigned=resigned)
        assert probe(*LEADER).code == 1, holder


def test_a_process_that_does_nothing_is_not_alive(
    crowd: Crowd, probe: Callable[..., Found], sleeper: subprocess.Popen[bytes]
) -> None:
    words = ("--live", "--pid", str(sleeper.pid))
    say(crowd, sleeper.pid)
    assert probe(*words).code == 0
    sleeper.send_signal(signal.SIGSTOP)
    wait_until(lambda: probe(*words).code == 1, 30, "it is stopped")
    sleeper.kill()
    wait_until(lambda: "has ended" in probe(*words).output, 30, "it is a zombie")
    sleeper.wait()
    assert "no process" in probe(*words).output


@pytest.mark.parametrize("hangs", [False, True])
def test_without_redis_a_process_lives_and_nothing_else_is_known(hangs: bool) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1] if hangs else free_port()
        url = f"redis://:secret@127.0.0.1:{port}/0"
        for words, code in ((LIVE, 0), (READY, 2), (LEADER, 2)):
            began = time.monotonic()
            found = invoke(url, "shop", "probe", *words)
            assert found.code == code
            assert "secret" not in found.output
            assert time.monotonic() - began < 10 * probe_command._LIMIT, "it does not wait long"


@pytest.mark.parametrize("words", [(), ("--live",), ("--live", "--pid", "0")])
def test_what_is_missing_is_said(probe: Callable[..., Found], words: tuple[str, ...]) -> None:
    assert probe(*words).code == 2
    assert "--live" in probe(*words).output or "--pid" in probe(*words).output


def test_json(crowd: Crowd, probe: Callable[..., Found]) -> None:
    name = say(crowd)
    found = probe(*READY, "--json").json
    assert (found["schema"], found["version"], found["probe"]) == ("probe", 1, "ready")
    assert (found["ok"], found["candidates"]) == (True, [name])
    assert probe(*LEADER, "--json").json["ok"] is False


def test_the_viewer_s_rights_are_enough(valkey_server: Server) -> None:
    say(Crowd(valkey_server, "shop"))
    assert invoke(user_with(valkey_server, printed("shop")[1]), "shop", "probe", *READY).code == 0
    before = user_with(valkey_server, words_of(VIEWER_BEFORE))
    found = invoke(before, "shop", "probe", *READY)
    assert (found.code, "lacks a right" in found.output) == (2, True)


def test_a_real_candidate_in_this_process(shared_server: ExternalServer, key: str) -> None:
    with create_safe_redis_leader(redis=shared_server.url, key=key, ttl=2.0, wait=0.1) as leader:
        leader.wait_until_leader(60)
        for words in (LIVE, READY, LEADER):
            found = invoke(shared_server.url, key, "probe", *words, "--role", "library")
            assert (found.code, leader.candidate_id in found.output) == (0, True), found.output
    assert invoke(shared_server.url, key, "probe", *LEADER).code == 1


def test_no_module_of_celery_is_imported() -> None:
    """Else it would take longer than the probe may."""
    program = (
        "import sys; sys.argv = ['x', '--help']\n"
        "from celery_safe_leader.__main__ import main\n"
        "assert not {'celery', 'kombu', 'django', 'billiard'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
