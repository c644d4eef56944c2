"""The table of ``docs/reference/suites.md``: what comes of each test over each of our classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PAGE", "VERDICTS", "Found", "Row", "differences", "read_tables", "verdict_of"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "suites.md"

SAME, ADAPTED, NOT_APPLICABLE = "same", "adapted", "not applicable"
NO_SCHEDULER, LEFT_OUT, FAILS_ANYWAY = "no scheduler", "skipped", "fails with theirs"
VERDICTS = (SAME, ADAPTED, NOT_APPLICABLE, NO_SCHEDULER, LEFT_OUT, FAILS_ANYWAY)
"""``same``: passes as it is. ``adapted``: passes once the scheduler leads. ``not applicable``: does
not pass, for the reason that the table gives. ``no scheduler``: passes, and makes no scheduler of
ours. ``skipped``: by the suite itself. ``fails with theirs``: with their own class, too."""

_SECTION = re.compile(r"<!-- suite: (\S+) -->\n(.*?)<!-- end of suite -->", re.DOTALL)
_ROW = re.compile(r"^\| `([^`]+)` \| (.+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Row:
    """What the table says of one test, or of all of a file (``test_models.py::*``)."""

    test: str
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class Found:
    """What was seen of one test: with their scheduler, and with ours on standby and leading."""

    test: str
    stock: Mapping[str, Any]
    plain: Mapping[str, Any]
    ready: Mapping[str, Any]


def read_tables(text: str) -> dict[str, dict[str, Row]]:
    """Return suite -> test -> row.

    Raises:
        ValueError: A row has another verdict than one of ``VERDICTS``, or lacks its reason.
    """
    tables: dict[str, dict[str, Row]] = {}
    for name, body in _SECTION.findall(text):
        rows = tables[name] = {}
        for test, rest in _ROW.findall(body):
            verdict, _, why = (part.strip() for part in rest.partition("|"))
            if verdict not in VERDICTS or (verdict == NOT_APPLICABLE and not why):
                raise ValueError(f"{name}: {test}: {rest!r}")
            if test in rows:
                raise ValueError(f"{name}: {test} stands there twice")
            rows[test] = Row(test, verdict, why)
    return tables


def verdict_of(found: Found) -> str:
    """Return what was seen as a word of the table."""
    plain, ready = found.plain.get("outcome"), found.ready.get("outcome")
    if found.stock.get("outcome") == "skipped":
        return LEFT_OUT
    if found.stock.get("outcome") != "passed":
        return FAILS_ANYWAY
    if plain == ready == "passed":
        makes = found.plain.get("made") or found.ready.get("made")
        return SAME if makes else NO_SCHEDULER
    # One that passes only as long as the scheduler does nothing shows nothing.
    return ADAPTED if ready == "passed" else NOT_APPLICABLE


def differences(table: Mapping[str, Row], seen: Iterable[Found]) -> list[str]:
    """Return where the table and what was seen differ, a line each."""
    lines, met = [], set()
    for found in seen:
        file, _, _ = found.test.partition("::")
        row = table.get(found.test) or table.get(f"{file}::*")
        verdict = verdict_of(found)
        if row is None:
            lines.append(f"{found.test}: {verdict}, and is not in the table")
            continue
        met.add(row.test)
        if row.verdict != verdict:
            why = found.ready.get("why") or found.plain.get("why") or ""
            lines.append(f"{found.test}: {verdict}, the table says {row.verdict} {why}")
    lines += [f"{test}: in the table, and was not run" for test in table.keys() - met]
    return sorted(lines)
