"""What users and other releases rely on is as it was in 5d6b9fc, before all modules moved.

The record beside this file is what ``tools/public_surface.py`` printed there.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes.child import ROOT, clean_environment

RECORD: dict[str, Any] = json.loads((Path(__file__).parent / "public_surface.json").read_text())
PARTS = sorted(set(RECORD) - {"messages"})
LOGGERS = ("celery_safe_leader", "celery_safe_leader.beat", "celery_safe_leader.worker")
"""Those that users configure."""

LEADERS_SCRIPTS = ("adopt", "enrol", "forget", "guard", "merge", "settle", "write")
"""Run by whoever leads. Other releases rely on what they leave in Redis, which is compared by
running both (``test_older_release.py``), not on their words."""

_RAISED = "StoreRefusedError/members/() was '(self, key, detail)' and is '(self, key, detail, "

CHANGED = {
    "ledger": (
        # The newest format that is read. A ledger that is not paused is still written in format 1.
        "/format was 1 and is 2",
        # Scripts alone write sentinels now. What they write is whole or partial to 5d6b9fc, as it
        # says itself in test_older_release.py.
        "/sentinels again is gone",
    ),
    # Where it is asked, in vain, who leads: 1 says that nobody does. A setting that is wrong is
    # like a command line that is.
    "exits": (
        *(
            f"/{command}, {why} was 1 and is 2"
            for command in ("status", "status --workers")
            for why in ("no server", "no Redis", "wrong ttl")
        ),
        *(f"/acl, {why} was 1 and is 2" for why in ("no Redis", "wrong ttl")),
    ),
    "modules": (
        # It has one more field, with a default.
        "/celery_safe_leader.conf/LeaderSettings/members/() was ",
        # It has more options.
        "/celery_safe_leader.cli/leader/status was ['--workers = ",
        f"/celery_safe_leader/{_RAISED}",
        f"/celery_safe_leader.errors/{_RAISED}",
        # Of a class derived from Celery's.
        "/celery_safe_leader.signals/leader_demoted was ",
        "/celery_safe_leader.signals/leader_elected was ",
    ),
    "lua": (
        *(f"/{name}/" for name in LEADERS_SCRIPTS),
        # Each process sends its own text of it. What it leaves in the record is as it was.
        "/renew/",
        # A resignation may name who is to go first. Older releases read past it, and write over it.
        "/record/",
        "/resign/",
        # Servers that show no run_id are asked in another way.
        "/epoch/sha256",
        # It tells the history since when the one before was silent.
        "/campaign/",
        # It also writes what the candidate says of itself, after the record.
        "/observe/sha256",
    ),
}
"""What was changed on purpose, and breaks nobody: how each such difference begins."""


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    """The surface of the tree; another process reads it, since it sets up a Django of its own."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "public_surface.py")],
        cwd=ROOT,
        env={**clean_environment(), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    surface: dict[str, Any] = json.loads(done.stdout)
    return surface


def differences(was: Any, now: Any, place: str = "") -> Iterator[str]:
    """Tell what is gone or different; names that are new break nobody."""
    if isinstance(was, dict) and isinstance(now, dict):
        for name, value in was.items():
            if name in now:
                yield from differences(value, now[name], f"{place}/{name}")
            else:
                yield f"{place}/{name} is gone"
    elif was != now:
        yield f"{place} was {was!r} and is {now!r}"


@pytest.mark.parametrize("part", PARTS)
def test_what_others_rely_on_is_as_it_was(now: dict[str, Any], part: str) -> None:
    on_purpose = CHANGED.get(part, ())
    found = list(differences(RECORD[part], now[part]))
    assert [said for said in found if not said.startswith(on_purpose)] == []
    for begins in on_purpose:
        assert any(said.startswith(begins) for said in found), f"{begins} is out of date"


def test_the_scripts_of_a_leader_need_no_right_that_they_did_not_need(now: dict[str, Any]) -> None:
    """An upgrade needs no new ACL: without the right to publish, runs go by write-ahead."""
    may = {command for script in RECORD["lua"].values() for command in script["commands"]}
    may.add("HSCAN")  # which was sent by clients alone, and printed among their rights
    for name in (*LEADERS_SCRIPTS, "sentinel", "accept", "renew", "presence"):
        assert set(now["lua"][name]["commands"]) <= may, name


def test_every_logger_is_one_that_users_configure_or_below_it(now: dict[str, Any]) -> None:
    names = {name for name, _, _ in now["messages"]} - {"?"}
    assert set(LOGGERS) <= names
    known = {*LOGGERS, "celery.beat"}  # the last says each run, as stock beat does
    assert [name for name in names - known if not name.startswith(f"{LOGGERS[0]}._")] == []


def pattern(template: str) -> re.Pattern[str]:
    """What a text with ``%s`` in it looks like once it is filled in."""
    parts = re.split(r"%[-0-9.]*[a-zA-Z]", template)
    return re.compile(".+?".join(map(re.escape, parts)), re.DOTALL)


def rewordings() -> list[tuple[str, str]]:
    """Read old and new texts from the tables of the change log."""
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)] for line in lines]
    return [(row[1], row[2]) for row in rows if len(row) == 4 and row[0] == row[3] == ""]


def same_place(was: list[str], now: list[str]) -> bool:
    """Whether a message is as loud as before, and who listens to its logger hears it still."""
    hears = now[0] in (was[0], "?") or (was[0] not in LOGGERS and now[0].startswith(LOGGERS[0]))
    return hears and was[1] == now[1]


def test_each_message_is_as_loud_as_it_was_and_on_the_same_logger(now: dict[str, Any]) -> None:
    """One whose words changed stands, old and new, in the change log: alerts may look for it."""
    wrong, rows = [], rewordings()
    for was in RECORD["messages"]:
        successors = [said for said in now["messages"] if said[2] == was[2]]
        if not successors:
            old = pattern(was[2])
            new = [text for before, text in rows if old.search(before)]
            successors = [
                said for said in now["messages"] if any(pattern(said[2]).search(t) for t in new)
            ]
        if not any(same_place(was, said) for said in successors):
            wrong.append((was, successors))
    assert wrong == []


def test_a_change_of_any_part_is_noticed() -> None:
    for part in PARTS:
        for place, changed in changes_of(RECORD[part]):
            assert list(differences(RECORD[part], changed)), f"{part}{place}"


def changes_of(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Make a copy for each value in it, without it or with another in its place."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{place}/{name}", {key: value[key] for key in value if key != name}
            for where, changed in changes_of(inner, f"{place}/{name}"):
                yield where, {**value, name: changed}
    elif isinstance(value, list):
        yield place, [*value, "more"]
    else:
        yield place, f"{value} changed"


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (["celery_safe_leader.beat", "info", "x"], True),
        (["?", "info", "x"], True),
        (["celery_safe_leader.beat", "warning", "x"], False),
        (["celery_safe_leader.worker", "info", "x"], False),
        (["celery_safe_leader", "info", "x"], False),
    ],
)
def test_a_change_of_logger_or_level_is_noticed(said: list[str], heard: bool) -> None:
    assert same_place(["celery_safe_leader.beat", "info", "x"], said) is heard
