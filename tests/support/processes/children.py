"""Starting child processes: Python scripts, modules, programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes.child import ROOT, Child, clean_environment

__all__ = ["Children"]


class Children:
    """Starts children and ends them all in ``close()``."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
    ) -> Child:
        """Start a program. ``env`` is added to the clean environment."""
        complete = {**clean_environment(), "PYTHONUNBUFFERED": "1", **(env or {})}
        child = Child(argv, env=complete, cwd=cwd, name=name)
        self._all.append(child)
        return child

    def python(
        self,
        script: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "script",
    ) -> Child:
        """Start Python on the text of a script; the repository can be imported from."""
        argv = [sys.executable, "-c", script, *args]
        return self.start(argv, env=self._importable(env), cwd=cwd, name=name)

    def module(
        self,
        module: str,
        *args: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
    ) -> Child:
        """Start ``python -m module``: ``children.module("celery", "-A", "app", "beat")``."""
        argv = [sys.executable, "-m", module, *args]
        return self.start(argv, env=self._importable(env), cwd=cwd, name=name or module)

    @staticmethod
    def _importable(env: Mapping[str, str] | None) -> dict[str, str]:
        env = dict(env or {})
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), str(ROOT)]))
        return env

    def close(self) -> None:
        """End them all, the newest first."""
        while self._all:
            self._all.pop().close()
