"""What the end-to-end tests measured is shown at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import _state

_MEASURED = pytest.StashKey[list[str]]()


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Show a line in the summary."""
    return request.config.stash.setdefault(_MEASURED, []).append


@pytest.fixture(autouse=True)
def _for_the_apps_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tasks of one test out of the apps of the next: Celery shares them for ever."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = terminalreporter.config.stash.get(_MEASURED, [])
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.write_line(line)
