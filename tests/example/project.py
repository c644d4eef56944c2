"""Running the example project outside the test process, which must not load its Django."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.processes.child import ROOT, clean_environment

EXAMPLE = ROOT / "example_project"


def environment(**extra: str) -> dict[str, str]:
    """Build an environment in which the package can be imported."""
    clean = {k: v for k, v in clean_environment().items() if not k.startswith("SHOP_")}
    return {**clean, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **extra}


def run(
    *argv: str, env: Mapping[str, str] | None = None, cwd: Path = EXAMPLE, timeout: float = 50
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, in the folder of the project."""
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env=env if env is not None else environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def manage(*argv: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py``, with warnings as errors."""
    return run("-W", "error", "manage.py", *argv, env=env)


def evaluate(script: str, env: Mapping[str, str] | None = None) -> Any:
    """Run a script that leaves its answer in ``answer``, and return that."""
    done = run("-c", f"import json\n{script}\nprint(json.dumps(answer))", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
