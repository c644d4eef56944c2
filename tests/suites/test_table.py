"""The table of other projects' tests is whole, and what differs from it is found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.suites.__main__ import SUITES
from tests.suites.table import PAGE, Found, Row, differences, read_tables, verdict_of

PASSED: dict[str, Any] = {"outcome": "passed", "made": 1}
FAILED: dict[str, Any] = {"outcome": "failed", "made": 1, "why": "assert 0.0 == 0.99"}
ALONE: dict[str, Any] = {"outcome": "passed", "made": 0}
SKIPPED: dict[str, Any] = {"outcome": "skipped", "made": 0}

EACH = [
    (Found("a.py::t", PASSED, PASSED, PASSED), "same"),
    (Found("a.py::t", PASSED, PASSED, FAILED), "not applicable"),
    (Found("a.py::t", PASSED, ALONE, ALONE), "no scheduler"),
    (Found("a.py::t", PASSED, FAILED, PASSED), "adapted"),
    (Found("a.py::t", PASSED, FAILED, FAILED), "not applicable"),
    (Found("a.py::t", PASSED, {}, {}), "not applicable"),
    (Found("a.py::t", FAILED, FAILED, PASSED), "fails with theirs"),
    (Found("a.py::t", SKIPPED, SKIPPED, SKIPPED), "skipped"),
]


def table_of(*rows: str) -> dict[str, Row]:
    return read_tables("\n".join(["<!-- suite: s -->", *rows, "<!-- end of suite -->"]))["s"]


@pytest.mark.parametrize(("found", "verdict"), EACH)
def test_what_is_seen_has_one_word(found: Found, verdict: str) -> None:
    assert verdict_of(found) == verdict
    why = " tick() returns 0 |" if verdict == "not applicable" else ""
    assert differences(table_of(f"| `a.py::t` | {verdict} |{why}"), [found]) == []


@pytest.mark.parametrize(("found", "verdict"), EACH)
def test_every_other_word_in_the_table_is_a_difference(found: Found, verdict: str) -> None:
    for other in {each for _, each in EACH} - {verdict}:
        wrong = differences(table_of(f"| `a.py::t` | {other} | why |"), [found])
        assert len(wrong) == 1
        assert f"{verdict}, the table says {other}" in wrong[0]


def test_a_test_that_is_new_or_gone_is_a_difference() -> None:
    table = table_of("| `a.py::gone` | same |", "| `b.py::*` | no scheduler |")
    seen = [Found("a.py::new", PASSED, PASSED, PASSED), Found("b.py::one", PASSED, ALONE, ALONE)]
    assert differences(table, seen) == [
        "a.py::gone: in the table, and was not run",
        "a.py::new: same, and is not in the table",
    ]


@pytest.mark.parametrize("row", ["| `a.py::t` | not applicable |", "| `a.py::t` | passes |"])
def test_a_row_without_reason_or_with_another_word_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match=r"a\.py::t"):
        table_of(row)


def test_each_suite_has_a_table_in_the_docs() -> None:
    tables = read_tables(PAGE.read_text())
    assert tables.keys() == {suite.name for suite in SUITES}
    assert all(len(table) > 20 for table in tables.values())
