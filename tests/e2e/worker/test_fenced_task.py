"""The worked example of the documentation, as shown there, with a leader that lost its lease."""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import pytest

from tests.docs.pages import page
from tests.support.celery.workers import Worker, leader_of
from tests.support.network.proxy import Proxy
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server

EXAMPLES = ROOT / "docs" / "guides" / "examples"
TABLE = "CREATE TABLE prices (name TEXT PRIMARY KEY, value TEXT, token BIGINT)"


def environment(folder: Path, server: Server) -> dict[str, str]:
    """Return what the example is told: without it, it would use the machine's own Redis."""
    return {
        "REDIS_URL": server.url,
        "DATABASE": str(folder / "shop.sqlite3"),
        "LEADER_TTL": "1",
    }


@pytest.fixture
def example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, valkey_server: Server
) -> Iterator[Any]:
    """Import the example, as a producer would."""
    for name, value in environment(tmp_path, valkey_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("fenced_task")
    yield module
    module.app.close()
    del sys.modules["fenced_task"]


def test_the_page_shows_the_example_word_for_word() -> None:
    shown = [block.text for block in page("docs/guides/leader-only-tasks.md").python()]
    assert (EXAMPLES / "fenced_task.py").read_text() in shown


@pytest.mark.timeout(120)
def test_an_old_leaders_writes_are_refused(
    example: Any, children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    source = """
import os
from fenced_task import app
app.conf.leader_url = os.environ["ELECTION"]
"""
    (tmp_path / "app.py").write_text(source)
    path = os.pathsep.join((str(tmp_path), str(EXAMPLES)))
    env = {"PYTHONPATH": path, **environment(tmp_path, valkey_server)}

    def start(name: str, election: str) -> Worker:
        return Worker(children, tmp_path, "-c", "1", name=name, env={**env, "ELECTION": election})

    with (
        Proxy(valkey_server.port) as link,
        closing(sqlite3.connect(tmp_path / "shop.sqlite3")) as database,
    ):
        database.execute(TABLE)
        database.execute("INSERT INTO prices VALUES ('apple', '', 0)")
        database.commit()
        # Reading from a pipe takes until somebody writes to it.
        slow, quick = tmp_path / "slow", tmp_path / "quick"
        os.mkfifo(slow)
        quick.write_text("2.50")

        workers = [start("one", link.url())]
        first = leader_of(workers, 30)
        workers.append(start("two", valkey_server.url))
        old = example.import_price.delay("apple", str(slow))
        pipe = wait_until(lambda: _opened(slow), 30, lambda: first.child.output)
        assert pipe is not None
        # Its broker's link is well: a worker that is stopped might take the next call with it.
        link.black_hole()
        leader_of(workers, 30, other_than=first)
        new = example.import_price.delay("apple", str(quick))
        assert new.get(timeout=30) == {"redis": True, "sql": True}
        with pipe:
            pipe.write("1.00")
        assert old.get(timeout=30) == {"redis": False, "sql": False}

        client = valkey_server.client()
        token = int(str(client.hget("price:apple", "token")))
        assert client.hget("price:apple", "value") == "2.50"
        rows = database.execute("SELECT value, token FROM prices").fetchall()
        assert rows == [("2.50", token)]


def _opened(pipe: Path) -> TextIO | None:
    """Open a pipe for writing, if somebody reads from it."""
    try:
        return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "w")
    except OSError:
        return None
