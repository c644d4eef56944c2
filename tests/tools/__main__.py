"""Play each scene with stock beat and with ours, and compare; status 1 if they differ anywhere.

The tools are installed into environments of their own, ``.matrix/tools`` and ``.matrix/stores``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.matrix.environments import FOLDER, prepare
from tests.matrix.rows import CELERY, Row
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds
from tests.tools.scene import TOOLS
from tests.tools.stores import STORES

STORED = (
    "celery-mongobeat", "celery-redbeat", "celery-redundant-scheduler", "celerybeat-callargs",
    "django-celery-beat", "django-celery-beat-rrule", "django-guid", "pytz", "scout-apm",
    "sqlalchemy-celery-beat",
)  # fmt: skip
REQUIREMENTS = (
    "celery-jalalicrontab", "celery-once", "celery-redbeat", "celery-singleton",
    "celery-sqlalchemy-v2-scheduler", "cronitor", "ddtrace", "django-celery-beat",
    "django-structlog", "django-tenants", "elastic-apm", "humanize", "logfire[celery]", "newrelic",
    "opentelemetry-instrumentation-celery", "opentelemetry-sdk", "psycopg2-binary", "pytz",
    "sentry-sdk", "tenant-schemas-celery", "time-machine",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
LIMIT = 180
"""Seconds for one scene."""


class Tools(Row):
    """An environment with tools, of the newest releases that agree."""

    @property
    def requirements(self) -> list[str]:
        more = STORED if self.name == "stores" else REQUIREMENTS
        return [f"celery[redis]=={self.celery}", f"kombu[redis]=={self.kombu}", *more]


def environment(name: str) -> Path:
    """Return the Python of an environment, which is made if it is not there."""
    return prepare(Tools(name, *CELERY["5.7"], "8.*"))


def play(python: Path, tool: str, scheduler: str, url: str) -> dict[str, Any]:
    """Return what a tool saw with a scheduler."""
    command = [str(python), "-m", "tests.tools.scene", tool, scheduler, url, f"{tool}-{scheduler}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        (FOLDER / f"tool-{tool}-{scheduler}.log").write_text(done.stdout + done.stderr)
        return {"failed": done.stderr.strip().splitlines()[-1:]}
    # A beat that is told to end may end its process by itself.
    lines = done.stdout.strip().splitlines() or ['{"failed": "nothing was printed"}']
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def follow_schedules(python: Path) -> list[str]:
    """Compare schedule classes of other packages; return those that run at other moments."""
    command = [str(python), "-W", "ignore", "-m", "tests.tools.schedules"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)
    if done.returncode:
        return [f"schedules: {done.stderr.strip()[-500:]}"]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    for name, each in found.items():
        print(f"{name}: {each}", flush=True)
    return [name for name, each in found.items() if each.get("stock") != each.get("ours")] + [
        name for name, each in found.items() if each.get("apart")
    ]


def main(chosen: list[str]) -> int:
    """Play the scenes that are named, or all."""
    wanted = chosen or ["schedules", *TOOLS]
    pythons = {
        name: environment(name)
        for name in dict.fromkeys("stores" if each in STORES else "tools" for each in wanted)
    }
    differ = follow_schedules(pythons["tools"]) if "schedules" in wanted else []
    with Server(installed_kinds()[0]) as server:
        for tool in [each for each in wanted if each != "schedules"]:
            python = pythons["stores" if tool in STORES else "tools"]
            stock: dict[str, Any] = {}
            ours: dict[str, Any] = {}
            for found, scheduler in ((stock, "stock"), (ours, "leader")):
                server.client().flushall()  # of locks, too
                found.update(play(python, tool, scheduler, server.url))
            way, more = ours.pop("transactional", None), ours.pop("not compared", "")
            for name in ("transactional", "not compared"):
                stock.pop(name, None)
            same = stock == ours and "failed" not in ours
            differ += [] if same else [tool]
            print(f"{tool}: {'as stock beat' if same else 'NOT as stock beat'}", flush=True)
            print(f"    {ours}, transactional: {way} {more}")
            if not same:
                print(f"    stock: {stock}")
    if differ:
        print(f"NOT as stock beat: {', '.join(differ)}")
    return bool(differ)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
