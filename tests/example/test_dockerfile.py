"""The Dockerfile, executed step by step outside Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.example.dockerfile import Build, ignored, parse, steps_of
from tests.support.processes.child import ROOT

STAGES = parse(ROOT / "Dockerfile")
TARGETS = ["shop", "tests"]


def build(target: str, folder: Path) -> Build:
    """Execute all steps of a target in a new virtual environment."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    image = Build(ROOT, folder / "image", venv)
    image.execute(steps_of(STAGES, target))
    return image


def inside(image: Build, *argv: str, **env: str) -> str:
    """Run a program in the built image, and return its output."""
    done = subprocess.run(
        argv,
        cwd=image.cwd,
        env={**image.env, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_base_images_are_pinned_to_a_patch_release() -> None:
    for stage in STAGES.values():
        if stage.base not in STAGES:
            assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", stage.base)


@pytest.mark.parametrize("target", TARGETS)
def test_images_do_not_run_as_root(target: str) -> None:
    steps = steps_of(STAGES, target)
    users = [rest for instruction, rest in steps if instruction == "USER"]
    assert users == ["leader"]
    made = [rest for instruction, rest in steps if instruction == "RUN" and "useradd" in rest]
    assert len(made) == 1
    assert re.search(r"useradd --create-home --uid \d+ leader( |$)", made[0])
    # Nothing is installed or copied after the change of user, who could not write there.
    last = [instruction for instruction, _ in steps][steps.index(("USER", "leader")) :]
    assert set(last) <= {"USER", "WORKDIR", "CMD"}


@pytest.mark.parametrize("target", TARGETS)
def test_copied_files_exist_and_are_not_ignored(target: str) -> None:
    patterns = ignored(ROOT)
    for instruction, rest in steps_of(STAGES, target):
        if instruction == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source not in patterns


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_shop_installs_and_starts_from_what_the_dockerfile_copies(tmp_path: Path) -> None:
    image = build("shop", tmp_path)
    database = str(tmp_path / "shop.sqlite3")
    inside(image, "python", "manage.py", "check", "--fail-level", "WARNING")
    inside(image, "python", "manage.py", "migrate", "--noinput", SHOP_DATABASE=database)
    where = inside(image, "python", "-c", "import celery_safe_leader as p; print(p.__file__)")
    assert where.startswith(str(tmp_path / "venv"))
    assert image.command[0] == "celery"
    report = inside(image, "celery", "-A", "shop", "report")
    assert "celery_safe_leader.LeaderScheduler" in report


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_suite_can_be_collected_from_what_the_dockerfile_copies(tmp_path: Path) -> None:
    image = build("tests", tmp_path)
    listed = inside(image, *image.command, "--collect-only", "-q")
    assert "tests/example/test_dockerfile.py" in listed
