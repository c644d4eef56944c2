"""Lua scripts, read once from the files beside the code, as plain data.

Does not talk to a server. A script may have shared Lua put before it. The digest covers the whole
text, so the scripts of two releases never get mixed up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Script", "load"]


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script."""

    name: str
    """File name without ``.lua``."""
    text: str
    """What the server is sent."""
    sha: str
    """SHA-1 of ``text``, as ``EVALSHA`` expects it."""


@cache
def load(package: str, name: str, *preludes: str, before: str = "") -> Script:
    """Return the script ``scripts/<name>.lua`` of a package.

    Args:
        package: Dotted name of the package that holds the folder ``scripts``.
        name: File name without ``.lua``.
        preludes: Names of files in the same folder that come before it.
        before: Lua that comes first of all: a prelude of another package.
    """
    folder = files(package) / "scripts"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*preludes, name)]
    text = "\n".join((before, *parts) if before else parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
