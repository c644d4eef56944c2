"""What may import what. import-linter checks the layers; here is what it does not see."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Children
from tests.support.processes.child import ROOT

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


WITHOUT_CELERY = [
    "_core",
    "_schedules",
    "_runtime",
    "_store",
    "_ledger",
    "_dispatch",
    "_operations",
]
"""The rooms that RQ and other users of the library can have: all of their modules are imported."""
BLOCKED = """
import importlib, importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"billiard", "celery", "django", "kombu", "vine"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
for name in sys.argv[1:]:
    importlib.import_module(name)
print("imported", len(sys.argv) - 1)
"""


def modules_without_celery() -> list[str]:
    paths = [path for room in WITHOUT_CELERY for path in (PACKAGE / room).rglob("*.py")]
    paths += [
        PACKAGE / f"{name}.py" for name in ("errors", "_loggers", "leader", "aio", "__main__")
    ]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return sorted(name.removesuffix(".__init__") for name in names)


def test_the_library_the_ledger_and_the_pipeline_work_where_celery_is_not(
    children: Children,
) -> None:
    modules = modules_without_celery()
    assert len(modules) > 60
    child = children.start([sys.executable, "-c", BLOCKED, *modules], name="without Celery")
    assert child.wait_for_line("imported").text == f"imported {len(modules)}"


def test_a_module_that_needs_celery_is_noticed(children: Children) -> None:
    command = [sys.executable, "-c", BLOCKED, "celery_safe_leader.conf"]
    child = children.start(command, name="without Celery")
    assert child.wait(50) != 0
    assert "is blocked" in child.output


IMPORTING = """
import importlib, sys, threading, weakref
from celery import signals
from celery.app.defaults import NAMESPACES
from celery.bin.worker import worker
from celery.worker.control import Panel

def receivers():
    every = [each for each in vars(signals).values() if hasattr(each, "receivers")]
    for _, receiver in [pair for signal in every for pair in signal.receivers or ()]:
        yield receiver() if isinstance(receiver, weakref.ReferenceType) else receiver

def changed():
    modules = {receiver.__module__ for receiver in receivers()}
    return {
        "receivers": any(name.startswith("celery_safe_leader") for name in modules),
        "settings": "leader" in NAMESPACES,
        "options": any(each.name == "no_leader" for each in worker.params),
        "inspection": "leader" in Panel.data,
        "threads": threading.active_count() > 1,
    }

for name in sys.argv[1:]:
    importlib.import_module(name)
print("changed", *(name for name, is_so in changed().items() if is_so))
"""
# These need settings of Django, or a RedBeat.
OTHER_PACKAGES = {
    "celery_safe_leader._django.admin_page",
    "celery_safe_leader.models",
    "celery_safe_leader.schedulers.database",
    "celery_safe_leader.schedulers.redbeat",
}


def all_modules() -> list[str]:
    paths = PACKAGE.rglob("*.py")
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return sorted({name.removesuffix(".__init__") for name in names} - OTHER_PACKAGES)


def test_importing_changes_nothing_but_what_a_command_line_needs(children: Children) -> None:
    cli = "celery_safe_leader.cli"
    modules = [name for name in all_modules() if name != cli]
    assert len(modules) > 100
    child = children.start([sys.executable, "-c", IMPORTING, *modules], name="without the command")
    # Celery looks the inspection up in the process that asks, before anything is installed.
    assert child.wait_for_line("changed").text.split() == ["changed", "inspection"]
    child = children.start([sys.executable, "-c", IMPORTING, *modules, cli], name="the command")
    last = child.wait_for_line("changed").text.split()
    assert last == ["changed", "settings", "options", "inspection"]


def test_all_layers_are_kept(children: Children) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    child = children.start([str(program), "--no-cache"], name="lint-imports")
    assert child.wait(50) == 0, child.output
