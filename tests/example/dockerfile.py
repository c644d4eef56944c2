"""Reading a Dockerfile, and doing what it says in a folder instead of an image."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes.child import clean_environment

_KNOWN = {"FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "CMD"}
_IGNORABLE = ("useradd", "mkdir", "chown")
"""Programs of RUN steps that change the machine, and are not run outside an image."""


@dataclass
class BuildStage:
    """One ``FROM … AS name`` with its steps."""

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def parse(path: Path) -> dict[str, BuildStage]:
    """Read the stages of a Dockerfile, in order."""
    text = re.sub(r"(?m)^\s*#.*\n?", "", path.read_text()).replace("\\\n", " ")
    stages: dict[str, BuildStage] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        instruction, _, rest = line.partition(" ")
        assert instruction in _KNOWN, f"{instruction} is not an instruction that is known here"
        if instruction == "FROM":
            match = re.fullmatch(r"(\S+) AS (\S+)", rest)
            assert match, f"FROM {rest}: every stage has a name"
            stages[match[2]] = BuildStage(match[2], match[1])
        else:
            next(reversed(stages.values())).steps.append((instruction, " ".join(rest.split())))
    return stages


def steps_of(stages: dict[str, BuildStage], target: str) -> list[tuple[str, str]]:
    """Return the steps that build a target, those of its bases first."""
    stage = stages[target]
    return [*(steps_of(stages, stage.base) if stage.base in stages else []), *stage.steps]


def ignored(root: Path) -> list[str]:
    """Read the patterns of ``.dockerignore``."""
    lines = (root / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class Build:
    """Executes the steps of a target: ``/app`` and ``/data`` are folders under ``image``.

    Args:
        context: The build's context.
        image: Where the image's file system is.
        venv: The Python of the image.
    """

    def __init__(self, context: Path, image: Path, venv: Path) -> None:
        self._context = context
        self._image = image
        self.cwd = image
        self.user = "root"
        self.command: list[str] = []
        path = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.env = {**clean_environment(), "PATH": path, "VIRTUAL_ENV": str(venv)}
        self.env.pop("PYTHONPATH", None)

    def execute(self, steps: list[tuple[str, str]]) -> None:
        """Execute steps in order."""
        for instruction, rest in steps:
            getattr(self, f"_{instruction.lower()}")(rest)

    def path(self, name: str) -> Path:
        """Return where a path of the image is."""
        return self._image / name.lstrip("/") if name.startswith("/") else self.cwd / name

    def _env(self, rest: str) -> None:
        self.env.update(dict(pair.split("=", 1) for pair in shlex.split(rest)))

    def _workdir(self, rest: str) -> None:
        self.cwd = self.path(rest)
        self.cwd.mkdir(parents=True, exist_ok=True)

    def _user(self, rest: str) -> None:
        self.user = rest

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)

    def _copy(self, rest: str) -> None:
        *sources, target = shlex.split(rest)
        for name in sources:
            source, destination = self._context / name, self.path(target)
            assert source.exists(), f"COPY {rest}: there is no {name}"
            if source.is_dir():
                shutil.copytree(source, destination, ignore=self._ignore, dirs_exist_ok=True)
            else:
                assert target.endswith("/"), f"COPY {rest}: several files need a folder"
                destination.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, destination)

    def _ignore(self, folder: str, names: list[str]) -> set[str]:
        """Choose what ``.dockerignore`` keeps out of the image."""
        inside = Path(folder).relative_to(self._context)
        out = set()
        for pattern in ignored(self._context):
            if pattern.startswith("**/"):
                out.update(fnmatch.filter(names, pattern[3:]))
            else:
                out.update(name for name in names if fnmatch.fnmatch(str(inside / name), pattern))
        return out

    def _run(self, rest: str) -> None:
        for command in rest.split(" && "):
            argv = shlex.split(command)
            if argv[0] in _IGNORABLE:
                continue
            done = subprocess.run(
                argv, cwd=self.cwd, env=self.env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"RUN {command}:\n{done.stdout}\n{done.stderr}"
