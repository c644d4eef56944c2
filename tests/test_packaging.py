"""What is in the wheel: Lua scripts and ``py.typed`` are easily lost."""

from __future__ import annotations

import zipfile
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest

from tests.support.processes import Children
from tests.support.processes.child import ROOT

BUILD = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"


@pytest.fixture
def wheel(children: Children, tmp_path: Path) -> Path:
    child = children.python(BUILD, str(tmp_path))
    assert child.wait(30) == 0, child.output
    return next(tmp_path.glob("*.whl"))


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "celery_safe_leader"
    wanted = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.lua", "*.html", "*.css", "*.js", "*.svg", "py.typed")
        for path in package.rglob(pattern)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == wanted
    assert "celery_safe_leader/py.typed" in names
    for suffix in (".lua", ".html", ".css", ".js"):
        assert any(name.endswith(suffix) for name in names)


def test_beat_finds_the_scheduler_by_its_short_name() -> None:
    (found,) = entry_points(group="celery.beat_schedulers", name="leader")
    assert found.value == "celery_safe_leader.beat:LeaderScheduler"


def test_celery_and_redis_are_all_that_is_needed_at_run_time() -> None:
    needed = [each for each in requires("celery-safe-leader") or [] if "extra ==" not in each]
    assert sorted(needed) == ["celery>=5.4", "packaging>=21", "redis>=5.0.1"]
