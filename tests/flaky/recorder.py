"""A plugin of pytest: notes each test's outcome in a file, a line of JSON for each."""

from __future__ import annotations

import json
import os

import pytest

__all__ = ["FILE", "RUN"]

FILE, RUN = "FLAKY_FILE", "FLAKY_RUN"
"""In the environment: the file, and the number of the run."""

_seconds: dict[str, float] = {}
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test when the last of its three parts is over."""
    # Workers of xdist report to the process that started them, which notes it.
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    name = report.nodeid
    _seconds[name] = _seconds.get(name, 0.0) + report.duration
    if report.failed:
        _failed.add(name)
    if report.when != "teardown":
        return
    noted = {
        "run": int(os.environ[RUN]),
        "test": name,
        "outcome": "failed" if name in _failed else "passed",
        "seconds": round(_seconds.pop(name), 2),
    }
    _failed.discard(name)
    with open(os.environ[FILE], "a") as file:
        file.write(json.dumps(noted) + "\n")
