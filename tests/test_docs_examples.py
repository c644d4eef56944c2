"""The examples of the documentation run: on a real server, in processes of their own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_safe_leader import LeaderScheduler, conf
from tests.docs.pages import Block, page
from tests.support.processes import Child, Children
from tests.support.processes.child import ROOT
from tests.support.processes.waiting import wait_until
from tests.support.servers import ExternalServer, Server

EXAMPLES = ROOT / "docs" / "guides" / "examples"
SHOWING = ("README.md", "docs/guides/library.md", "docs/guides/leader-only-tasks.md")
"""Pages with examples."""
STARTUP = 30.0
"""Seconds for a process to start, or to take over, on a busy machine."""


class Environment:
    """Starts examples on one server."""

    def __init__(self, server: ExternalServer, children: Children) -> None:
        self.server = server
        self._children = children

    def example(self, name: str, *args: str) -> Child:
        """Start an example by its file's name."""
        return self.python(EXAMPLES / name, *args)

    def python(self, path: Path, *args: str) -> Child:
        """Start a file."""
        argv = [sys.executable, str(path), *args]
        env = {"REDIS_URL": self.server.url, "PYTHONPATH": str(ROOT)}
        return self._children.start(argv, env=env, name=" ".join((path.name, *args)))

    def command(self, line: str, cwd: Path) -> Child:
        """Start a command of the documentation."""
        program, *args = shlex.split(line)
        assert program == "celery"
        path = os.pathsep.join((str(cwd), str(ROOT)))
        argv = [sys.executable, "-m", program, *args]
        return self._children.start(argv, env={"PYTHONPATH": path}, cwd=cwd, name=line)


@pytest.fixture
def environment(valkey_server: Server, children: Children) -> Environment:
    return Environment(valkey_server, children)


def blocks(name: str) -> list[Any]:
    return [pytest.param(block, id=f"{name}:{block.line}") for block in page(name).python()]


@pytest.mark.parametrize("name", ["leader_sync.py", "leader_async.py"])
def test_the_standby_of_the_example_leads_once_the_first_is_killed(
    name: str, environment: Environment
) -> None:
    first = environment.example(name, "1")
    first.wait_for_line("I'm the leader - 1", STARTUP)
    second = environment.example(name, "2")
    client = environment.server.client()
    # The leader has one connection for requests, a standby another one to wait on: it takes part.
    _wait_until_connected(client, "celery-safe-leader", 3)
    assert "leader" not in second.output
    first.kill()
    second.wait_for_line("I'm the leader - 2", STARTUP)
    second.signal(signal.SIGINT)
    assert second.wait(STARTUP) == 0
    assert second.output.splitlines() == ["I'm the leader - 2", "Not any more: shutdown", "Bye"]
    assert client.hget("{leader:the-election}:lease", "resigned") == "1"


@pytest.mark.parametrize(
    ("name", "value"),
    [("fenced_redis.py", "prices hold"), ("fenced_sql.py", "the row holds")],
)
def test_a_store_that_compares_tokens_refuses_the_older_leader(
    name: str, value: str, environment: Environment
) -> None:
    child = environment.example(name)
    assert child.wait(STARTUP + 10) == 0, child.output
    assert child.output.splitlines() == [
        "newest leader: True",
        "older leader: False",
        f"{value}: from the new leader",
    ]


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("README.md", ["leader_sync.py", "leader_async.py"]),
        ("docs/guides/library.md", ["fenced_redis.py", "fenced_sql.py"]),
    ],
)
def test_pages_show_the_files_word_for_word(name: str, of: list[str]) -> None:
    shown = [block.text for block in page(name).python()]
    for example in of:
        assert (EXAMPLES / example).read_text() in shown


def test_every_example_file_is_shown_or_linked() -> None:
    every = "".join(page(name).text for name in SHOWING)
    for path in EXAMPLES.glob("*.py"):
        assert path.read_text() in every


@pytest.mark.parametrize("block", blocks("docs/guides/library.md"))
def test_every_block_of_the_library_guide_runs(
    block: Block, environment: Environment, tmp_path: Path
) -> None:
    script = tmp_path / "block.py"
    script.write_text(block.text)
    child = environment.python(script)
    assert child.wait(STARTUP + 10) == 0, child.output


@pytest.mark.parametrize("name", ["README.md", "docs/guides/beat.md"])
def test_beat_starts_with_the_app_and_the_command_of_the_page(
    name: str, environment: Environment, tmp_path: Path
) -> None:
    (block, *_) = (block for block in page(name).python() if "app = Celery(" in block.text)
    module = re.search(r'Celery\("(\w+)"', block.text)
    assert module is not None
    shown = "redis://localhost:6379/0"
    assert shown in block.text
    app = block.text.replace(shown, environment.server.url) + "app.conf.leader_ttl = 1.0\n"
    (tmp_path / f"{module[1]}.py").write_text(app)
    commands = [line for line in page(name).commands if line.startswith("celery -A")]
    line = next(line for line in commands if "--loglevel=INFO" in line)
    beats = [environment.command(line, tmp_path) for _ in range(2)]
    for beat in beats:
        beat.wait_for_line("Taking part in the election", STARTUP)
    client = environment.server.client()
    key = re.search(r'leader_key = "(.+)"', block.text)
    assert key is not None
    ledger = f"{{leader:{key[1]}}}:runs"
    leader = _leader_of(beats)

    def ran() -> Any:
        return client.hget(ledger, "count-stock")

    wait_until(ran, 10, "a run in the ledger")
    leader.signal(signal.SIGTERM)
    (other,) = (beat for beat in beats if beat is not leader)
    other.wait_for_line("Elected leader of", STARTUP)
    assert ran()


@pytest.mark.parametrize("name", ["README.md", "docs/guides/beat.md"])
def test_the_settings_of_django_are_accepted(name: str) -> None:
    (text,) = (block.text for block in page(name).python() if "CELERY_LEADER" in block.text)
    settings: dict[str, Any] = {}
    exec(text, settings)  # noqa: S102 - a block of our own pages
    settings.pop("__builtins__")
    app = Celery("proj")
    app.config_from_object(settings, namespace="CELERY")
    assert conf.read(app).key == settings["CELERY_LEADER_KEY"]
    assert app.conf.beat_scheduler == "celery_safe_leader.LeaderScheduler"


def test_the_options_of_an_entry_are_accepted() -> None:
    (text,) = (
        block.text for block in page("docs/guides/beat.md").python() if "max_lateness" in block.text
    )
    app = Celery("shop", broker="redis://localhost:6379/0")
    exec(text, {"app": app})  # noqa: S102 - a block of our own pages
    scheduler = LeaderScheduler(app, lazy=True)
    scheduler.setup_schedule()
    entry = scheduler._roster.entries["invoice"]
    assert (entry.policy.value, entry.limit, entry.max_lateness_us) == ("all", 24, 6 * 3600 * 10**6)
    scheduler.close()


def test_a_bound_task_reads_its_headers_as_the_page_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (text,) = (
        block.text
        for block in page("docs/guides/beat.md").python()
        if "leader_covers" in block.text
    )
    app = Celery("shop", broker="redis://localhost:6379/0", set_as_current=False)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(text, names)  # noqa: S102 - a block of our own pages
    task = app.tasks[names["count_stock"].name]
    # As a worker does: headers of a message become attributes of the request.
    task.push_request(leader_covers="1000000,2500000", leader_token=7)
    try:
        task.run()
    finally:
        task.pop_request()
    assert capsys.readouterr().out == "due at 2.5 under token 7\n"


def _leader_of(beats: list[Child]) -> Child:
    def leader() -> Child | None:
        return next((beat for beat in beats if "Elected leader of" in beat.output), None)

    found = wait_until(leader, STARTUP, "a beat is elected")
    assert found is not None
    return found


def _wait_until_connected(client: Any, name: str, count: int) -> None:
    def connected() -> bool:
        return sum(line["name"] == name for line in client.client_list()) >= count

    wait_until(connected, STARTUP, f"{count} connections named {name}")
