"""Lua scripts, read once from the files beside the code, as plain data.

Nothing here talks to a server. A script may name shared Lua that is put before it; the digest is
that of the whole text, so a script of one release never meets the text of another.
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
    """What is sent to the server."""
    sha: str
    """SHA-1 of ``text``, as ``EVALSHA`` wants it."""


@cache
def load(package: str, name: str, *preludes: str) -> Script:
    """Read ``scripts/<name>.lua`` of a package.

    Args:
        package: Dotted name of the package that holds the folder ``scripts``.
        name: File name without ``.lua``.
        preludes: Names of files in the same folder that come before it.
    """
    folder = files(package) / "scripts"
    parts = [(folder / f"{part}.lua").read_text(encoding="utf-8") for part in (*preludes, name)]
    text = "\n".join(parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
