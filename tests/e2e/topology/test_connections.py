"""Each process has as many connections to the election's Redis as the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.celery.beats import write_app
from tests.support.processes import Child, Children, wait_until
from tests.support.processes.child import ROOT
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

ROW = re.compile(r"^\| ([a-z -]+|worker with `--no-leader`|[a-z ]+ with `-B`) \| (\d+) \|$")
BEAT = ("beat", "-S", "leader", "--pidfile=")
WORKER = ("worker", "-P", "prefork", "-c", "1")


def documented() -> dict[str, int]:
    """Return the page's table: process -> connections."""
    page = (ROOT / "docs/operations/running.md").read_text()
    section = page.split("### Connections\n")[1].split("\n#")[0]
    return {row[1]: int(row[2]) for line in section.splitlines() if (row := ROW.match(line))}


@pytest.mark.long
@pytest.mark.timeout(240)
def test_each_process_has_as_many_connections_as_the_page_says(
    children: Children, tmp_path: Path, valkey_server: Server
) -> None:
    says = documented()
    with Server(installed_kinds()[0]) as election:
        write_app(
            tmp_path,
            valkey_server.url,
            "{}",
            more="import celery_safe_leader\ncelery_safe_leader.install(app)\n",
            leader_url=election.url,
            beat_scheduler="leader",
            leader_ttl=3.0,
            broker_connection_retry_on_startup=True,
        )
        client = election.client()

        def count() -> int:
            return sum(each["name"] == "celery-safe-leader" for each in client.client_list())

        def start(*arguments: str) -> Child:
            program = ["celery", "-A", "app", *arguments, "-l", "INFO"]
            return children.module(*program, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)

        for arguments, leading, standby in (
            (BEAT, "leading beat", "standby beat"),
            (WORKER, "leading worker", "standby worker"),
            ((*WORKER, "-B", "-s", "s"), "leading worker with `-B`", "standby worker with `-B`"),
            ((*WORKER, "--no-leader"), "worker with `--no-leader`", "worker with `--no-leader`"),
        ):
            started = [start(*arguments)]
            counts = [says[leading], says[leading] + says[standby]]
            what = f"{counts} connections: {leading}, {standby}"
            wait_until(lambda: count() == counts[0], 60, lambda: f"{what}; {count()}")  # noqa: B023
            started.append(start(*arguments))
            wait_until(lambda: count() == counts[1], 60, lambda: f"{what}; {count()}")  # noqa: B023
            # Those that come a moment later are seen, too.
            assert not _changes(lambda: count() != counts[1])  # noqa: B023
            for child in reversed(started):
                assert child.stop() == 0, child.output
            wait_until(lambda: count() == 0, 30, "the end of all connections")


def _changes(condition: object) -> bool:
    try:
        wait_until(condition, 3, "a change")  # type: ignore[arg-type]
    except AssertionError:
        return False
    return True
