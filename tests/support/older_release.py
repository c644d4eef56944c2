"""The package as it was at an earlier commit, to be run or read beside the present one."""

from __future__ import annotations

import atexit
import functools
import importlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

from tests.support.processes.child import ROOT

__all__ = ["BASE", "older_module", "unpacked"]

BASE = "5d6b9fc"
"""The last release whose every run was published by write-ahead."""

_PACKAGE = "celery_safe_leader"
_ALIAS = "older_safe_leader"


def unpacked(folder: Path) -> Path:
    """Unpack the older package; return the folder that it can be imported from.

    Raises:
        AssertionError: The commit is not here, as in a shallow clone.
    """
    command = ["git", "archive", "--format=tar", BASE, _PACKAGE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, f"the history down to {BASE} is needed: {done.stderr.decode()}"
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def older_module(name: str) -> ModuleType:
    """Import a module of the older package into this process, where it has another name.

    Args:
        name: Below the package: ``_beat.ledger``.
    """
    _import_path()
    return importlib.import_module(f"{_ALIAS}.{name}")


@functools.cache
def _import_path() -> None:
    """Make the older package importable, under its other name, once in a process."""
    folder = Path(tempfile.mkdtemp(prefix="older-release-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    unpacked(folder / "release")
    package = (folder / "release" / _PACKAGE).rename(folder / "release" / _ALIAS)
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(_PACKAGE, _ALIAS), encoding="utf-8")
    sys.path.append(str(folder / "release"))
