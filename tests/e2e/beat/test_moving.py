"""A ledger moves to another server under load, and back to stock beat: nothing lost or twice."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.beat.driven_leaders import read_message
from tests.integration.operations.commands import Found, invoke
from tests.support.candidates.resigned import leave_resigned
from tests.support.celery.beats import SCHEDULER, Beat, leader_of, write_app
from tests.support.processes import Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server

EVERY = 0.2
NAMES = tuple("abcdefgh")
SCHEDULE = repr(
    {name: {"task": "shop.work", "schedule": EVERY, "kwargs": {"entry": name}} for name in NAMES}
)


class Side:
    """A folder whose beats keep their ledger on one server."""

    def __init__(self, children: Children, folder: Path, broker: str, url: str) -> None:
        folder.mkdir()
        self.folder, self.url, self._children = folder, url, children
        self.beats: list[Beat] = []
        write_app(folder, broker, SCHEDULE, leader_url=url, leader_ttl=2.0, leader_wait=0.2)

    def start(self, scheduler: str = SCHEDULER) -> Beat:
        name = f"{self.folder.name} {len(self.beats) + 1}"
        self.beats.append(Beat(self._children, self.folder, name=name, scheduler=scheduler))
        return self.beats[-1]

    def run(self, *words: str) -> Found:
        found = invoke(self.url, "shop", *words)
        assert found.code == 0, found.output
        return found

    def said(self) -> str:
        return "\n".join(f"{beat.name}:\n{beat.child.output}" for beat in self.beats)


class Queue:
    """What the beats of both sides sent; nobody takes it."""

    def __init__(self, server: Server) -> None:
        self._client: Any = server.client(decode_responses=False)

    @property
    def count(self) -> int:
        return int(self._client.llen("celery"))

    def covers(self) -> dict[str, list[tuple[int, int]]]:
        """Entry -> what its messages stand for, the oldest first."""
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in NAMES}
        for raw in reversed(self._client.lrange("celery", 0, -1)):
            sent = read_message(raw)
            entry = re.search(r"'entry': '(\w)'", sent.headers["kwargsrepr"])
            assert entry is not None
            found[entry[1]].append(sent.covers)
        return found


@pytest.mark.parametrize(
    "database",
    [
        pytest.param(0, id="transactional", marks=pytest.mark.long),
        pytest.param(1, id="write-ahead"),
    ],
)
def test_under_load_each_run_goes_out_once_from_one_server_or_the_other(
    children: Children, tmp_path: Path, start_server: Callable[..., Server], database: int
) -> None:
    broker, new = start_server(), start_server()
    url = broker.url.removesuffix("/0") + f"/{database}"
    here = Side(children, tmp_path / "here", broker.url, url)
    there = Side(children, tmp_path / "there", broker.url, new.url)
    queue = Queue(broker)
    leave_resigned(url, "shop", "beat")
    leave_resigned(new.url, "shop", "beat")
    here.start()
    here.start()
    leader_of(lambda: here.beats, 60)
    wait_until(lambda: queue.count > 5 * len(NAMES), 60, here.said)

    here.run("pause", "--wait", "30")
    file = str(tmp_path / "ledger.json")
    here.run("ledger", "export", file)
    there.run("ledger", "import", file)
    there.start()
    second = leader_of(lambda: there.beats, 60)
    wait_until(lambda: "it is paused" in second.child.output, 60, there.said)
    before = queue.count
    there.run("resume")
    # Those of the old server live on, and publish nothing.
    wait_until(lambda: queue.count > before + 8 * len(NAMES), 60, there.said)
    second.terminate()
    _chained(queue.covers())
    assert here.run("status", "--json").json["ledger"]["paused"]
    assert "Traceback" not in here.said() + there.said()


def _chained(covers: dict[str, list[tuple[int, int]]]) -> None:
    """Each message stands for what comes after the one before: none is lost, none twice."""
    step = round(EVERY * 1_000_000)
    for entry, ranges in covers.items():
        assert len(ranges) > 10, entry
        for before, after in pairwise(ranges):
            assert after[0] == before[1] + step, (entry, ranges)


def test_stock_beat_goes_on_where_the_ledger_ended(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    """With the program of the page."""
    side = Side(children, tmp_path / "shop", valkey_server.url, valkey_server.url)
    late = {"task": "shop.work", "schedule": 3600.0, "kwargs": {"entry": "a"}}
    write_app(
        side.folder, valkey_server.url,
        repr({"late": late, "tick": {**late, "schedule": EVERY, "kwargs": {"entry": "b"}}}),
        leader_ttl=2.0, leader_wait=0.2,
    )  # fmt: skip
    queue = Queue(valkey_server)
    beat = side.start()
    wait_until(lambda: queue.count > 5, 60, side.said)
    side.run("pause", "--wait", "30")
    file = side.folder / "ledger.json"
    side.run("ledger", "export", str(file))
    beat.terminate()
    # The late one ran 59:58 ago.
    whole = json.loads(file.read_text())
    entries = {each["entry"]: each for each in whole["entries"]}
    hour_ago = datetime.now(timezone.utc) - timedelta(seconds=3598)
    entries["late"].update(last=hour_ago.isoformat().replace("+00:00", "Z"), count=7)
    file.write_text(json.dumps(whole))

    page = (ROOT / "docs" / "operations" / "leaving.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (side.folder / "leave.py").write_text(textwrap.dedent(program))
    left = children.start([sys.executable, "leave.py", "app", file.name], cwd=side.folder)
    assert left.wait(60) == 0, left.output
    sent = len(queue.covers()["b"])
    assert queue.covers()["a"] == []
    stock = side.start("celery.beat:PersistentScheduler")
    stock.child.wait_for_line("Sending due task late", 60)
    stock.child.wait_for_line("Sending due task tick", 60)
    assert sent > 5
