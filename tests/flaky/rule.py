"""Which tests depend on time: those that start a process or a thread, or wait for something.

Found by rule, so that a new test is among them without being named anywhere: its file, or one of
its fixtures, starts something or waits.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable

import pytest

__all__ = ["MARKER", "depends_on_time", "mark"]

MARKER = "waits"
"""The marker that these tests get when they are collected."""

_SIGNS = re.compile(
    r"\b(?:Children|Child|Server|Proxy|Thread|Timer|ThreadPoolExecutor|Popen)\("
    r"|\b(?:wait_until|wait_for|wait_for_line|sleep|subprocess|stage|shells|asyncio)\b"
    r"|\b(?:children|fleet|server|start_server|valkey_server|shared_server|quick_server|proxy)\b"
)


def depends_on_time(sources: Iterable[str]) -> bool:
    """Return whether one of these sources starts something or waits."""
    return any(_SIGNS.search(source) for source in sources)


@functools.cache
def _source(thing: object) -> str:
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        return ""


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark the tests that depend on time."""
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        used = item._fixtureinfo.name2fixturedefs.items()
        # Every test has the fixtures of the whole suite's conftest that apply by themselves.
        own = [each.func for name, found in used if not name.startswith("_") for each in found]
        if depends_on_time(map(_source, [item.module, *own])):
            item.add_marker(MARKER)
