"""The page on private parts and the package say the same, in both directions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.docs import private_parts
from tests.docs.pages import page
from tests.docs.private_parts import PACKAGE, uses
from tests.support.processes.child import ROOT

NAME = "docs/reference/private-parts.md"
ROWS = page(NAME).rows("part")


def spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def parts_of(row: list[str]) -> set[str]:
    """Return the last part of each name in a row."""
    return {name.rpartition(".")[2] for name in spans(row[0])}


def path_of(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")).with_suffix(".py")


def listed() -> set[tuple[str, str]]:
    return {(module, part) for row in ROWS for module in spans(row[1]) for part in parts_of(row)}


def test_every_use_of_a_private_part_is_on_the_page() -> None:
    there = listed()
    missing = [use for use in uses() if (use.module, use.name) not in there]
    assert missing == []
    assert len(uses()) > 80


def test_every_part_on_the_page_is_in_its_modules() -> None:
    gone = [
        (module, part)
        for module, part in sorted(listed())
        if not re.search(rf"\b{re.escape(part)}\b", path_of(module).read_text())
    ]
    assert gone == []


def test_every_row_says_why_where_it_was_read_and_what_fails() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(row) == 5
        assert all(row)
        assert spans(row[1])
        assert spans(row[4])


def test_every_test_that_is_named_is_there() -> None:
    tests = {
        node.name
        for path in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name for row in ROWS for name in spans(row[4])} - tests == set()


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from celery._state import get_current_app", "get_current_app"),
        ("from celery.worker.components import Pool", "Pool"),
        ("import kombu.utils.limits", "limits"),
        ("service._heart", "_heart"),
        ("getattr(service, '_heart', None)", "_heart"),
        ("consumer.reset_rate_limits()", "reset_rate_limits"),
        ("super()._send()", "_send"),
    ],
)
def test_a_new_use_is_noticed(line: str, name: str) -> None:
    assert [found for found, _ in private_parts._of(ast.parse(line))] == [name]


@pytest.mark.parametrize(
    "line",
    [
        "from celery.exceptions import Ignore",
        "import os; os._exit(1)",
        "self._key",
        "import redis; redis.Redis()",
        "event_dispatcher.send('x')",
    ],
)
def test_what_is_documented_or_our_own_is_none(line: str) -> None:
    assert list(private_parts._of(ast.parse(line))) == []
