"""Secrets show nowhere: all failures, at DEBUG, and everything that was said is searched."""

from __future__ import annotations

import asyncio
import io
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from celery import Celery

from celery_safe_leader import conf, create_async_safe_redis_leader, create_safe_redis_leader
from celery_safe_leader._beat.membership import Membership
from celery_safe_leader.beat import LeaderScheduler
from celery_safe_leader.cli import rights
from tests.support.celery.beats import write_app
from tests.support.network.ports import free_port
from tests.support.network.proxy import Proxy
from tests.support.processes import Child, Children
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server

PASSWORD = "hush/hush#7f3a%&"
OTHER = "psst-51c0"
"""Of Sentinels, keys and tokens."""
FORMS = (PASSWORD, quote(PASSWORD, safe=""), OTHER, "hush/", "7f3a", "cHNzdC01MWMw")
TERMS: dict[str, Any] = {"key": "shop", "ttl": 0.6, "wait": 0.1}


class Failing(redis.CredentialProvider):
    """Raises with the token in its words, as a provider's HTTP library may."""

    def get_credentials(self) -> Any:
        raise RuntimeError(f"400 for https://issuer/?token={OTHER}")


class Refused(redis.CredentialProvider):
    """Gives a token that the server does not take."""

    def get_credentials(self) -> Any:
        return "user", OTHER


class Listener:
    """Keeps everything that is logged, as a formatter would write it, and what is handed to it."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._handler = logging.StreamHandler(self._stream)
        self._handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self._level = logging.root.level
        logging.root.addHandler(self._handler)
        logging.root.setLevel(logging.DEBUG)

    def hear(self, thing: object) -> None:
        """Keep what a thing says of itself."""
        self._stream.write(f"{thing} {thing!r} {getattr(thing, 'args', '')}\n")
        if isinstance(thing, BaseException):
            self._stream.write("".join(traceback.format_exception(thing)))

    def said(self) -> str:
        """Return all of it."""
        return self._stream.getvalue()

    def close(self) -> None:
        logging.root.removeHandler(self._handler)
        logging.root.setLevel(self._level)


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    listening.close()


def nothing_shows(said: str) -> None:
    """Search everything that was said."""
    found = [form for form in FORMS if form in said]
    places = [line for line in said.splitlines() if any(form in line for form in found)]
    assert not found, places[:5]


def let_fail(listener: Listener, url: str, options: dict[str, Any]) -> None:
    """Let candidates of both libraries fail for a while."""
    errors: list[Exception] = []
    try:
        leader = create_safe_redis_leader(redis=url, options=options, **TERMS)
    except Exception as refused:
        listener.hear(refused)
        return
    listener.hear(leader)
    listener.hear(leader.candidate_id)
    leader.on("error", errors.append)
    leader.elect()
    wait_until(lambda: len(errors) >= 2, 30, lambda: f"two errors of {errors}")
    leader.shutdown()

    async def await_failures() -> None:
        awaited = create_async_safe_redis_leader(redis=url, options=options, **TERMS)
        listener.hear(awaited)
        awaited.on("error", errors.append)
        before = len(errors)
        await awaited.elect()
        deadline = time.monotonic() + 20
        while len(errors) < before + 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        await awaited.shutdown()

    asyncio.run(await_failures())
    for error in errors:
        listener.hear(error)
    told = {str(error) for error in errors}
    assert all(told), "an error says something"


def let_apps_fail(listener: Listener, url: str, options: dict[str, Any]) -> None:
    """Read the same as settings; show banners and representations."""
    app = Celery("shop", broker=url, set_as_current=False)
    app.conf.update(leader_url=url, leader_options=options, leader_ttl=0.6, leader_wait=0.1)
    try:
        settings = conf.read(app)
    except Exception as refused:
        listener.hear(refused)
        return
    listener.hear(settings)
    listener.hear(Membership(settings).info)
    listener.hear(LeaderScheduler(app).info)
    listener.hear(rights(settings.key, settings.url, "user"))


@pytest.fixture
def cases(
    start_server: Callable[..., Server], start_proxy: Callable[[Server], Proxy], tmp_path: Path
) -> dict[str, tuple[str, dict[str, Any]]]:
    """URL and options of everything that fails."""
    server = start_server(password="right")
    hole = start_proxy(server)
    hole.black_hole()
    safe = quote(PASSWORD, safe="")
    here, nowhere = f"127.0.0.1:{server.port}", f"127.0.0.1:{free_port()}"
    key = tmp_path / "client.key"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{OTHER}\n-----END PRIVATE KEY-----\n")
    renamed = start_server("redis", config={"rename-command": 'AUTH ""'})
    return {
        "wrong password": (f"redis://:{safe}@{here}/0", {}),
        "wrong password of a user": (f"redis://user:{safe}@{here}/0", {}),
        "wrong password in the options": (f"redis://{here}/0", {"password": PASSWORD}),
        "a server without AUTH": (f"redis://:{safe}@127.0.0.1:{renamed.port}/0", {}),
        "no TLS there": (f"rediss://:{safe}@{here}/0", {"socket_timeout": 1}),
        "nobody there": (f"redis://:{safe}@{nowhere}/0", {}),
        "no answer": (f"redis://:{safe}@127.0.0.1:{hole.port}/0", {}),
        "a name that is none": (f"redis://:{safe}@no-such-host.invalid/0", {}),
        "no socket": (f"redis+socket://:{safe}@/tmp/no-such-socket?password={safe}", {}),
        "a bad port": (f"redis://:{safe}@host:{OTHER}/0", {}),
        "an unescaped password": (f"redis://:{PASSWORD}@host:1/0", {}),
        "a bad database": (f"redis://:{safe}@host/x?password={OTHER}", {}),
        "another scheme": (f"ftp://:{safe}@host/0", {}),
        "no scheme": (f":{safe}@host", {}),
        "two URLs": (f"redis://:{safe}@a/0;redis://:{OTHER}@b/0", {}),
        "a provider that raises": (f"redis://{here}/0", {"credential_provider": Failing()}),
        "a provider that is refused": (f"redis://{here}/0", {"credential_provider": Refused()}),
        "an unknown option": (f"redis://{here}/0", {"no_such_option": OTHER, "password": PASSWORD}),
        "a key that is none": (
            f"rediss://:{safe}@{here}/0",
            {"ssl_keyfile": str(key), "ssl_certfile": str(key), "ssl_password": OTHER},
        ),
        "CA data that are none": (f"rediss://:{safe}@{here}/0", {"ssl_ca_data": OTHER}),
        "Sentinels that are away": (
            f"sentinel://:{safe}@{nowhere};sentinel://:{safe}@{nowhere}/0",
            {"master_name": "mine", "sentinel_kwargs": {"password": OTHER}},
        ),
        "Sentinels that refuse": (
            f"sentinel://:{safe}@{here}/0",
            {"master_name": "mine", "sentinel_kwargs": {"password": OTHER, "username": "u"}},
        ),
        "Sentinels with bad options": (
            f"sentinel://:{safe}@{here}/0",
            {"master_name": "mine", "sentinel_kwargs": {"no_such": OTHER}},
        ),
        "a cluster that is none": (f"redis+cluster://:{safe}@{nowhere}/0", {}),
    }


def test_no_failure_shows_a_secret(
    listener: Listener, cases: dict[str, tuple[str, dict[str, Any]]]
) -> None:
    for name, (url, options) in cases.items():
        logging.getLogger("test").info("case %s", name)
        let_fail(listener, url, options)
        let_apps_fail(listener, url, options)
    said = listener.said()
    assert all(f"case {name}" in said for name in cases)
    assert "no answer from Redis" in said
    assert "the credential provider raised RuntimeError" in said
    nothing_shows(said)


def test_nothing_in_redis_shows_a_secret(
    listener: Listener, start_server: Callable[..., Server]
) -> None:
    server = start_server(password=PASSWORD)
    with create_safe_redis_leader(redis=server.url, **TERMS) as leader:
        leader.wait_until_leader(30)
        leader.stop()
        leader.elect()
        leader.wait_until_leader(30)
    client: Any = server.client()
    names = client.keys("*")
    assert len(names) >= 2
    for name in names:
        listener.hear(name)
        kind = client.type(name)
        if kind == "hash":
            listener.hear(client.hgetall(name))
        elif kind == "stream":
            listener.hear(client.xrange(name))
        elif kind == "list":
            listener.hear(client.lrange(name, 0, -1))
    said = listener.said()
    assert "elected" in said
    assert leader.candidate_id in said
    nothing_shows(said)


@pytest.mark.timeout(120)
def test_no_command_shows_a_secret(
    children: Children, tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    server = start_server(password=OTHER)
    wrong = server.url.replace(OTHER, quote(PASSWORD, safe=""))
    schedule = '{"tick": {"task": "shop.work", "schedule": 0.5}}'
    more = "\nimport celery_safe_leader\ncelery_safe_leader.install(app)\n"
    write_app(tmp_path, server.url, schedule, more=more, leader_url=wrong)

    def run(*arguments: str) -> Child:
        program = ("celery", "-A", "app", *arguments)
        return children.module(*program, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)

    beat = run("beat", "-S", "leader", "-l", "DEBUG")
    worker = run("worker", "-c", "1", "-l", "DEBUG", "--without-mingle", "--without-gossip")
    asked = [run("leader", "status"), run("leader", "acl"), run("report")]
    for child in (beat, worker):
        told = child.wait_for_line("Correct the user or password in leader_url", 60).text
        assert "Redis refuses the user name or password (" in told
        assert "/0 (leader_url). Correct" in told
        assert "nothing is lost" not in told
    for child in asked:
        child.wait(60)
    for child in (beat, worker):
        child.stop()
    assert "refuses the user name or password" in asked[0].output
    assert "ACL SETUSER" in asked[1].output
    for child in (beat, worker, *asked[:2]):
        nothing_shows(child.output)
    # Celery hides what its own settings hold, by their names.
    assert "leader_url" in asked[2].output
    nothing_shows(asked[2].output)
