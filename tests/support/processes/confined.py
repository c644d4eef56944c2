"""Programs as in a container: another user, a root that nobody can write to. Needs root and Linux.

A program runs in a mount namespace of its own, in which everything but ``/proc``, ``/sys`` and
``/dev`` is read-only. Where folders on the way to Python are closed to other users, such as
``/root``, an empty folder takes their place, with what is needed in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NOBODY", "confined", "missing_programs"]

NOBODY = 65534
_PROGRAMS = ("unshare", "setpriv", "mount")
_LEFT = ("/proc", "/sys", "/dev")


def missing_programs(*more: str) -> list[str]:
    """Return which of the programs are missing here that this needs."""
    return [name for name in (*_PROGRAMS, *more) if shutil.which(name) is None]


def confined(
    argv: Sequence[str],
    *,
    needed: Sequence[Path],
    user: int | None = NOBODY,
    read_only: bool = True,
    writable: Path | None = None,
) -> list[str]:
    """Return the command that runs a program so.

    Args:
        argv: The program and its arguments.
        needed: Folders that it reads, beside those of Python.
        user: Whose id it gets; ``None`` leaves root.
        read_only: Whether the root is read-only.
        writable: A folder that all may write to nevertheless; it is empty at first.
    """
    folders = [*needed, *map(Path, dict.fromkeys((sys.prefix, sys.base_prefix)))]
    paths = os.pathsep.join(str(folder.resolve()) for folder in folders)
    become = []
    if user is not None:
        ids = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        become = ["setpriv", "--pdeathsig=KILL", "--no-new-privs", "--bounding-set=-all", *ids]
    return [
        *("unshare", "--mount", sys.executable, "-I", "-S", __file__, paths, str(int(read_only))),
        str(writable or ""),
        *(*become, *argv),
    ]


def _closed(path: Path) -> Path | None:
    """Return the first folder on the way that others may not enter."""
    ways = [*reversed(path.parents), path]
    return next((way for way in ways if not way.stat().st_mode & 0o001), None)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _open_up(paths: Sequence[Path]) -> None:
    by_closed: dict[Path, list[Path]] = {}
    for path in paths:
        closed = _closed(path)
        if closed is not None:
            by_closed.setdefault(closed, []).append(path)
    for closed, inside in by_closed.items():
        # Kept open, and so reached although another folder lies over it.
        handles = [os.open(path, os.O_PATH | os.O_DIRECTORY) for path in inside]
        _mount("-t", "tmpfs", "-o", "mode=755", "confined", str(closed))
        for path, handle in zip(inside, handles, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            _mount("--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{handle}", str(path))


def _make_read_only() -> None:
    # Deepest first, so that no mount is hidden by another one that was changed.
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(set(points), key=len, reverse=True):
        if not point.startswith(_LEFT):
            _mount("-o", "remount,bind,ro", point)


def _main() -> None:
    paths, read_only, writable, *argv = sys.argv[1:]
    _mount("--make-rprivate", "/")
    _open_up([Path(path) for path in paths.split(os.pathsep)])
    if read_only == "1":
        _make_read_only()
    if writable:
        _mount("-t", "tmpfs", "-o", "mode=1777", "confined", writable)
    os.execvp(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    _main()
