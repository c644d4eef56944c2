"""A plugin of pytest: notes each test's outcome in a file, a line of JSON for each."""

from __future__ import annotations

import json
import os
import sys

import pytest

__all__ = ["FILE", "RUN"]

FILE, RUN = "FLAKY_FILE", "FLAKY_RUN"
"""In the environment: the file, and the number of the run."""

_seconds: dict[str, float] = {}
_failed: set[str] = set()


def pytest_configure(config: pytest.Config) -> None:
    """Leave it to the process that started them, to which workers of xdist report."""
    # Not by the environment: this run itself may have been started by a test in such a worker.
    if hasattr(config, "workerinput"):
        config.pluginmanager.unregister(sys.modules[__name__])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test when the last of its three parts is over."""
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
