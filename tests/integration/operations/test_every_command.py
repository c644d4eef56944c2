"""Every command: as a viewer, as an operator, with a wrong password, and with Redis away.

The Redis users have exactly the rights that ``leader acl`` prints.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
import redis
from celery import Celery
from click.testing import CliRunner

from celery_safe_leader import cli
from celery_safe_leader.__main__ import main
from celery_safe_leader._app import app_check
from celery_safe_leader._operations import resign_command, watch_command
from celery_safe_leader._operations.page import page_server
from celery_safe_leader._store.keys import LedgerKeys
from tests.integration.operations.commands import Found, invoke
from tests.integration.operations.test_candidates_shown import HOLDER, Crowd
from tests.integration.operations.test_page_view import write_runs
from tests.support.network.ports import free_port
from tests.support.network.proxy import Proxy
from tests.support.servers import Server, installed_kinds
from tests.support.servers.rights import printed, user_with

SECRET = "of-a-test-0123456789"


@dataclass(frozen=True)
class Case:
    """How a command is tried."""

    words: tuple[str, ...] = ()
    acts: bool = False
    code: int = 0
    """With which it ends where it has all rights."""
    said: str = ""
    """The same of its output."""
    away: str = ""
    """What it says besides with Redis away, or instead of ending: see ``GOES_ON``."""


NOT_DONE = ". Nothing was done"
CASES: dict[tuple[str, ...], Case] = {
    ("acl",): Case(said="ACL SETUSER"),
    ("check",): Case(said="✓ beat leader"),
    ("history",): Case(said="beat"),
    ("ledger", "export"): Case(said='"entry": "a"'),
    ("ledger", "import"): Case(("FILE",), acts=True, said="Imported 1 entry", away=NOT_DONE),
    ("ledger", "rename"): Case(("a", "b"), acts=True, said="a goes on as b", away=NOT_DONE),
    ("pause",): Case(("--by", "ann"), acts=True, said="is PAUSED", away=NOT_DONE),
    ("probe",): Case(("--ready",), said="takes part"),
    # Nobody is there who could act on it.
    ("resign",): Case(
        ("--by", "ann"), acts=True, code=2, said="did not act on it within 5 s", away=NOT_DONE
    ),
    ("resume",): Case(("--by", "ann"), acts=True, said="is resumed", away=NOT_DONE),
    ("runs",): Case(said="2026-09-21 14:13:20"),
    ("status",): Case(said=f"led by {HOLDER}"),
    ("watch",): Case(said=f"led by {HOLDER}", away="; looking again"),
    # Both of the page: what it shows, and what became of an action.
    ("web",): Case(("--port", "0", "--allow-actions"), acts=True, said="is PAUSED"),
}
GOES_ON = (("watch",), ("web",))
"""They do not end when Redis is away, or a right to act is missing."""


def leaves(group: click.Group) -> Iterator[tuple[str, ...]]:
    """Return all commands of a group and of its groups."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, *rest) for rest in leaves(command))
        else:
            yield (name,)


each_command = pytest.mark.parametrize("name", list(leaves(cli.leader)), ids=" ".join)


def test_they_are_the_same_without_celery_but_for_the_rights() -> None:
    assert {*leaves(main), ("acl",)} == set(leaves(cli.leader)) == set(CASES)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(installed_kinds()[0]) as server:
        yield server


@pytest.fixture
def crowd(server: Server, key: str) -> Crowd:
    """A leader, a standby of this host, and a ledger that is paused."""
    crowd = Crowd(server, key)
    crowd.write()
    crowd.say(HOLDER, token=1_790_000_000_000)
    crowd.say(f"{socket.gethostname()}:{os.getpid()}:x", host=socket.gethostname(), pid=os.getpid())
    crowd.tell("elected")
    write_runs(crowd.client, key, "a")
    assert invoke(server.url, key, "pause").code == 0
    return crowd


Run = Callable[..., Found]


@pytest.fixture
def run(server: Server, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Run a case as ``celery -A proj leader`` does, with a URL for the election's Redis."""
    monkeypatch.setattr(app_check, "_PATIENCE", 0.05)  # there are no workers
    monkeypatch.setattr(resign_command, "RESIGN_WITHIN_US", 100_000)
    monkeypatch.setattr(watch_command, "time", SimpleNamespace(sleep=_interrupt))
    monkeypatch.setattr(page_server, "serve", _ask_page)
    monkeypatch.setenv("CELERY_SAFE_LEADER_WEB_TOKEN", SECRET)
    before = signal.getsignal(signal.SIGTERM)
    file = tmp_path / "ledger.json"
    entry = {"entry": "c", "value": "1790000000000000 1 1790000000000000 f"}
    whole = {"schema": "ledger", "version": 1, "key": "other", "election": "beat", "paused": True}
    file.write_text(json.dumps({**whole, "entries": [entry], "claims": []}))
    apps: list[Celery] = []

    def run(name: tuple[str, ...], url: str) -> Found:
        app = Celery("shop", broker=server.url, set_as_current=False)
        apps.append(app)
        app.conf.update(
            leader_url=url,
            leader_key=key,
            beat_scheduler="celery_safe_leader.LeaderScheduler",
            beat_schedule_filename=str(tmp_path / "celerybeat-schedule"),
        )
        words = [str(file) if word == "FILE" else word for word in CASES[name].words]
        done = CliRunner().invoke(cli.leader, [*name, *words], obj=SimpleNamespace(app=app))
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
        assert ":pw@" not in done.output
        return Found(done.exit_code, done.output)

    yield run
    for app in apps:
        app.close()
    signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _ask_page(page: Any, listening: socket.socket) -> None:
    """Ask a page instead of serving it, print what it answers, and end as on Ctrl-C."""
    client, here = page.test_client(), "http://127.0.0.1"
    shown = client.get("/", base_url=here)
    click.echo(f"GET {shown.status_code} {shown.text}")
    headers = {"X-Leader-Token": SECRET}
    answer = client.post("/actions/pause", base_url=here, headers=headers, json={"by": "ann"})
    click.echo(f"POST {answer.status_code} {answer.json['message']}")
    raise KeyboardInterrupt


def contents(server: Server, key: str) -> dict[str, Any]:
    """Return all keys of an election and its ledger, as they are."""
    client: Any = server.client(decode_responses=False)
    return {name: client.dump(name) for name in sorted(client.scan_iter(f"*{{leader:{key}}}*"))}


@each_command
def test_a_viewer_sees_everything_and_changes_nothing(
    server: Server, crowd: Crowd, run: Run, key: str, name: tuple[str, ...]
) -> None:
    case, before = CASES[name], contents(server, key)
    found = run(name, user_with(server, printed(key)[1], name=f"{key}-viewer"))
    assert contents(server, key) == before
    if not case.acts:
        assert (found.code, case.said in found.output) == (case.code, True), found.output
        assert "permission" not in found.output
        return
    assert found.code == (0 if name in GOES_ON else 2), found.output
    assert f"{key} at redis://{server.host}:{server.port}/0: " in found.output
    right = (
        "lacks a right that an operator needs; `celery -A proj leader acl` prints all of them, in"
    )
    for words in (right, f"User {key}-viewer has no"):
        assert words in found.output
    if name == ("web",):
        assert "GET 200" in found.output
        assert HOLDER in found.output
        assert "POST 503" in found.output


@each_command
def test_an_operator_sees_everything_and_acts(
    server: Server, crowd: Crowd, run: Run, key: str, name: tuple[str, ...]
) -> None:
    case = CASES[name]
    before = contents(server, key)
    found = run(name, user_with(server, printed(key)[2], name=f"{key}-operator"))
    assert (found.code, case.said in found.output) == (case.code, True), found.output
    assert "permission" not in found.output
    changed = contents(server, key) != before
    # What nobody acts on is gone by now.
    assert changed is (case.acts and name != ("resign",))
    if case.acts:
        assert crowd.client.hget(crowd.keys.lease, "holder") == HOLDER


def test_without_celery_a_viewer_sees_the_same(server: Server, crowd: Crowd, key: str) -> None:
    """The election of the library, which an app has none of, is not among what it may read."""
    url = user_with(server, printed(key)[1], name=f"{key}-viewer")
    for name, case in CASES.items():
        if not case.acts and name not in (("acl",), ("watch",)):
            found = invoke(url, key, *name, *case.words)
            assert (found.code, case.said in found.output) == (case.code, True), found.output


def test_an_operator_can_neither_publish_nor_lead(server: Server, crowd: Crowd, key: str) -> None:
    url = user_with(server, printed(key)[2], name=f"{key}-operator")
    names = LedgerKeys(key)
    script = "return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"
    before = contents(server, key)
    with redis.Redis.from_url(url) as client:
        for words in (
            ("LPUSH", "celery", "message"),
            ("RPUSH", "celery", "message"),
            ("HSET", crowd.keys.lease, "holder", "me"),
            ("HSET", crowd.keys.presences, "me", "1"),
            ("RPUSH", names.running, "message"),
            ("PUBLISH", "/0.celery.pidbox", "message"),
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*words)
            with pytest.raises(redis.ResponseError, match=r"permission|ACL failure"):
                client.eval(script, 1, words[1], words[0], *words[2:])
    assert contents(server, key) == before
    assert crowd.client.llen("celery") == 0


@each_command
@pytest.mark.parametrize("trouble", ["no answer from Redis", "Redis refuses the user name"])
def test_without_redis_each_says_of_which_key_at_which_server(
    server: Server, crowd: Crowd, run: Run, key: str, name: tuple[str, ...], trouble: str
) -> None:
    case, before = CASES[name], contents(server, key)
    port = free_port() if trouble.startswith("no answer") else server.port
    found = run(name, f"redis://ann:pw@127.0.0.1:{port}/0")
    assert contents(server, key) == before
    if name == ("acl",):
        assert (found.code, case.said in found.output) == (0, True), "it needs no Redis"
        return
    assert found.code == (0 if name in GOES_ON else 2)
    assert f"{key} at redis://127.0.0.1:{port}/0 (leader_url): {trouble}" in found.output, (
        found.output
    )
    assert "{leader:" not in found.output, "names of Redis keys say nothing to people"
    assert "may have been" not in found.output
    if name in GOES_ON or trouble.startswith("no answer"):
        assert case.away in found.output


@pytest.mark.parametrize(
    ("name", "request_", "may"),
    [
        (("pause",), b"EVALSHA", "It may have been done: see `celery -A proj leader status`"),
        (("resume",), b"EVALSHA", "It may have been done: see `celery -A proj leader status`"),
        (("ledger", "rename"), b"EVALSHA", "It may have been done: see `celery -A proj leader run"),
        (("ledger", "import"), b"EVALSHA", "It may be imported: import it again"),
        (("resign",), b"RPUSH", "The leader may have been asked: see `celery -A proj leader stat"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_a_request_without_a_reply_may_have_been_executed(
    server: Server,
    crowd: Crowd,
    run: Run,
    start_proxy: Callable[[Server], Proxy],
    name: tuple[str, ...],
    request_: bytes,
    may: str,
) -> None:
    proxy = start_proxy(server)
    cut = proxy.cut_after_request(request_)
    found = run(name, proxy.url())
    assert cut.is_set(), found.output
    assert (found.code, may in found.output) == (2, True), found.output
    assert "Nothing was done" not in found.output
