"""What may import what. import-linter checks the layers; here is what it does not see."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.child import ROOT
from tests.support.processes import Children

PACKAGE = ROOT / "celery_safe_leader"
IMPURE = {"asyncio", "celery", "logging", "os", "random", "redis", "threading", "time"}
CORE = sorted((PACKAGE / "_core").rglob("*.py"))


def imported_roots(source: str) -> Iterator[str]:
    """Name the top-level package of each import, wherever it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_the_core_is_there() -> None:
    assert CORE


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_has_no_clock_no_randomness_no_threads_and_no_io(path: Path) -> None:
    assert not IMPURE & set(imported_roots(path.read_text(encoding="utf-8")))


def test_imports_inside_functions_are_found() -> None:
    source = "def f():\n    import time\n    from os.path import join\n    from . import random\n"
    assert set(imported_roots(source)) == {"time", "os"}


@pytest.mark.parametrize("module", ["celery_safe_leader", "celery_safe_leader.errors"])
def test_importing_needs_neither_celery_nor_django(children: Children, module: str) -> None:
    script = (
        f"import sys, threading, {module}; "
        "print('loaded', sorted({'celery', 'kombu', 'django'} & set(sys.modules)), "
        "threading.active_count())"
    )
    child = children.python(script)
    assert child.wait_for_line("loaded").text == "loaded [] 1"


def test_all_layers_are_kept(children: Children) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    child = children.start([str(program), "--no-cache"], name="lint-imports")
    assert child.wait(50) == 0, child.output
