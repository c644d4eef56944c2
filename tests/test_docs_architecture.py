"""The pages for maintainers name what is there."""

from __future__ import annotations

import ast
import importlib
import re
from typing import Any

import pytest

from celery_safe_leader._store.keys import ElectionKeys, LedgerKeys
from celery_safe_leader._worker.embedded_beat.precedence import sign_key
from tests.docs.pages import PAGES, Page, page
from tests.support.processes.child import ROOT

PACKAGE = ROOT / "celery_safe_leader"
ARCHITECTURE = "docs/explanation/architecture.md"
DECISIONS = [each for each in PAGES if each.path.parent.name == "decisions"]
MAINTAINERS = [page(ARCHITECTURE), page("CONTRIBUTING.md"), *DECISIONS]
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("_*/__init__.py"))
DOTTED = re.compile(r"`([a-z_]+(?:\.[A-Za-z_]+)*)`")
FILE = re.compile(r"`([\w./]+\.(?:lua|py|toml|md|json))`")


def spans(a_page: Page, pattern: re.Pattern[str]) -> list[str]:
    return sorted(set(pattern.findall(a_page.prose)))


def find(name: str) -> Any:
    """Import what a dotted name below the package names."""
    parts = name.split(".")
    found: Any = importlib.import_module("celery_safe_leader")
    for number, part in enumerate(parts):
        if hasattr(found, part):
            found = getattr(found, part)
        else:
            found = importlib.import_module("celery_safe_leader." + ".".join(parts[: number + 1]))
    return found


def names_of_ours(a_page: Page) -> list[str]:
    """Return the dotted names that begin with a room or a module of the package."""
    ours = {path.stem for path in PACKAGE.iterdir()} - {"__init__", "__pycache__"}
    return [
        name
        for name in spans(a_page, DOTTED)
        if name.partition(".")[0] in ours and ("." in name or name.startswith("_"))
    ]


@pytest.mark.parametrize("a_page", MAINTAINERS, ids=lambda each: each.name)
def test_every_name_on_a_page_for_maintainers_exists(a_page: Page) -> None:
    missing = []
    for name in names_of_ours(a_page):
        try:
            find(name)
        except ImportError:
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("a_page", MAINTAINERS, ids=lambda each: each.name)
def test_every_file_on_a_page_for_maintainers_exists(a_page: Page) -> None:
    missing = [
        name
        for name in spans(a_page, FILE)
        if not (ROOT / name).exists() and not any(PACKAGE.rglob(name))
    ]
    assert missing == []


def test_a_name_that_is_gone_is_noticed() -> None:
    assert find("_core.election.Election.tick")
    for name in ("_core.election.Election.tock", "_core.elections", "_cores"):
        with pytest.raises(ImportError):
            find(name)


def test_every_promise_and_room_names_where_it_is_kept() -> None:
    rows = page(ARCHITECTURE).rows("promise")
    assert len(rows) >= 8
    assert [row[0] for row in rows if "`_" not in row[1]] == []
    named = {row[0].strip("`") for row in page(ARCHITECTURE).rows("room")}
    assert named == set(ROOMS)
    (flow, *_) = (block.text for block in page(ARCHITECTURE).blocks if block.language == "mermaid")
    assert [room for room in ROOMS if f"{room}:" not in flow] == []


def threads_of_ours() -> set[str]:
    """Return the names that the package gives to threads; ``*`` for what is filled in."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = None
            if isinstance(node, ast.Constant):
                text = node.value
            elif isinstance(node, ast.JoinedStr):
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "*"
                    for part in node.values
                )
            if isinstance(text, str) and re.fullmatch(r"leader:[a-z*]+(:[a-z]+)?", text):
                found.add(text)
    return found


def test_every_thread_is_on_the_page() -> None:
    shown = {
        name.replace("<election>", "*")
        for name in re.findall(r"`(leader:[a-z:<>]+)`", page(ARCHITECTURE).text)
    }
    # This one's name is put together of the one before.
    assert shown == threads_of_ours() | {"leader:*:events"}


def test_every_key_in_redis_is_on_the_page() -> None:
    keys = {
        re.sub(r"<id>", "", name)
        for row in page(ARCHITECTURE).rows("key")
        for name in re.findall(r"`([^`]+)`", row[0])
    }
    election, ledger = ElectionKeys("shop", "worker"), LedgerKeys("shop")
    made = {
        election.lease, election.history, election.wake, election.witness, sign_key(election),
        election.publication, election.next, election.probe, election.ask, election.changes,
            election.presences,
    }  # fmt: skip
    made = {name.replace(":worker:", ":<role>:") for name in made}
    made |= {ledger.runs, ledger.pending, ledger.unknown, ledger.running, ledger.versions}
    made |= {ledger.accepted(""), ledger.again(""), ledger.staged("<random>", "…")}
    assert {name.replace(":worker:", ":<role>:") for name in keys} == made


def test_decisions_are_numbered_and_of_one_form() -> None:
    records = [each for each in DECISIONS if each.path.name != "index.md"]
    assert len(records) >= 12
    index = next(each for each in DECISIONS if each.path.name == "index.md")
    for number, record in enumerate(records, 1):
        assert record.path.name.startswith(f"{number:04d}-")
        assert record.text.startswith(f"# {number}. ")
        assert re.findall(r"^## (.+)$", record.text, re.MULTILINE) == [
            "Context",
            "Decision",
            "Consequences",
        ]
        assert f"({record.path.name})" in index.text
