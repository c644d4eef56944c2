"""How the package is laid out: what `tools/house.py` prints stays so."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from tests.support.processes.child import ROOT
from tools import house

MOST_MODULES = 16
"""In one folder: more than that nobody reads as one subject."""
SAME_FOR_ANOTHER_ROOM = {
    "aio": "the asyncio form of the module beside it: of the library, the runner and the store",
    "arguments": "what is called with what: a task, and a client of Redis",
    "codec": "how a room writes its values in Redis",
    "entry": "an entry of the schedule: as Celery has it, and as the pipeline has it",
    "errors": "what the room raises",
    "inspection": "what the room answers to `celery inspect`",
    "log": "what the room logs",
    "messages": "what the room sends: requests to the store, and messages to the broker",
    "ports": "what the room asks of others, as protocols",
}
"""File names that may stand twice, and why."""

SOURCES = house.in_tree(ROOT)


def module(path: str, source: str) -> house.Sources:
    return {PurePosixPath(path): source}


def test_the_package_is_there() -> None:
    assert len(SOURCES) > 100


def test_no_class_name_stands_twice() -> None:
    assert house.class_names_twice(SOURCES) == {}


def test_no_folder_has_too_many_modules() -> None:
    counts = {folder: len(names) for folder, names in house.modules_by_folder(SOURCES).items()}
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_beat_and_worker_do_not_know_each_other() -> None:
    assert house.crossings(SOURCES) == []


def test_a_file_name_stands_twice_only_for_the_same_thing_in_another_room() -> None:
    twice = house.file_names_twice(SOURCES)
    assert {name: twice[name] for name in twice.keys() - SAME_FOR_ANOTHER_ROOM.keys()} == {}


def test_a_class_is_found_again_wherever_it_stands() -> None:
    inner = "def f():\n    class Run: ...\n"
    sources = {**module("_beat/a.py", "class Run: ..."), **module("_core/b.py", inner)}
    assert house.class_names_twice(sources) == {"Run": ["_beat/a.py", "_core/b.py"]}


def test_a_file_is_found_again_and_init_is_not() -> None:
    paths = ("_beat/run.py", "_core/run.py", "_beat/__init__.py", "_core/__init__.py")
    sources = {PurePosixPath(path): "" for path in paths}
    assert house.file_names_twice(sources) == {"run": ["_beat", "_core"]}
    assert house.modules_by_folder(sources) == {"_beat": ["run"], "_core": ["run"]}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_beat/a.py", "import celery_safe_leader._worker.log"),
        ("_beat/a.py", "from celery_safe_leader import _worker"),
        ("_worker/b/a.py", "def f():\n    from celery_safe_leader._beat.log import Log"),
        ("_worker/b/a.py", "from ..._beat import log"),
        ("_worker/__init__.py", "from .._beat import log"),
        ("_beat/a.py", "importlib.import_module('celery_safe_leader._worker.log')"),
        ("_beat/a.py", "importlib.import_module('.._worker.log', __package__)"),
        ("_worker/a.py", "requires = ('celery_safe_leader._beat.log:Log',)"),
    ],
)
def test_an_import_of_the_other_room_is_found(path: str, source: str) -> None:
    assert len(house.crossings(module(path, source))) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("_beat/a.py", "from celery_safe_leader._beat import log"),
        ("_beat/mixin/a.py", "from .. import _worker_like"),
        ("_worker/a.py", "from celery_safe_leader._core import _beat"),
        ("_worker/a.py", "'celery_safe_leader._beat is not imported here'"),
        ("bootsteps.py", "from celery_safe_leader._beat import log"),
    ],
)
def test_other_imports_are_not_taken_for_it(path: str, source: str) -> None:
    assert house.crossings(module(path, source)) == []


def test_lines_are_counted_apart() -> None:
    source = '"""Doc.\n\nMore.\n"""\n\n# why\nX = """a\nb"""  # what\n"""Of X."""\n'
    expected = {"lines": 9, "docstring": 5, "comment": 1, "code": 2, "blank": 1}
    assert house.count_lines(source) == expected
