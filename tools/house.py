"""Print how the package is laid out: its rooms, its names, and who imports whom.

    python tools/house.py [REVISION]

Without a revision it reads the files of the tree as they are.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

PACKAGE = "celery_safe_leader"
APART = ("_beat", "_worker")
"""Rooms of which neither may know the other."""

Sources = Mapping[PurePosixPath, str]
"""The text of each module, by its path below the package."""


def in_tree(root: Path) -> Sources:
    """Read the package as it is in a folder that holds it."""
    package = root / PACKAGE
    return {
        PurePosixPath(path.relative_to(package).as_posix()): path.read_text(encoding="utf-8")
        for path in sorted(package.rglob("*.py"))
    }


def at_revision(root: Path, revision: str) -> Sources:
    """Read the package as it was committed."""
    names = _git(root, "ls-tree", "-r", "--name-only", revision, f"{PACKAGE}/").split("\n")
    return {
        PurePosixPath(name).relative_to(PACKAGE): _git(root, "show", f"{revision}:{name}")
        for name in names
        if name.endswith(".py")
    }


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def modules_by_folder(sources: Sources) -> dict[str, list[str]]:
    """Return the names of the modules of each folder, without ``__init__``."""
    folders: defaultdict[str, list[str]] = defaultdict(list)
    for path in sources:
        if path.stem != "__init__":
            folders[str(path.parent)].append(path.stem)
    return dict(folders)


def class_names_twice(sources: Sources) -> dict[str, list[str]]:
    """Return the classes, wherever they stand, whose name another class has as well."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path))
    return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}


def file_names_twice(sources: Sources) -> dict[str, list[str]]:
    """Return the modules whose file name another module has as well, and their folders."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for folder, names in modules_by_folder(sources).items():
        for name in names:
            found[name].append(folder)
    return {name: sorted(folders) for name, folders in sorted(found.items()) if len(folders) > 1}


def crossings(sources: Sources) -> list[str]:
    """Return where a room of ``APART`` names a module of the other.

    Imports count wherever they stand, relative ones too, and so do strings that are the dotted
    name of a module, as ``importlib`` and Celery's ``"module:Class"`` take them.
    """
    found = []
    for path, source in sources.items():
        if path.parts[0] not in APART:
            continue
        other = APART[1 - APART.index(path.parts[0])]
        for line, name in named_modules(path, source):
            if name == f"{PACKAGE}.{other}" or name.startswith(f"{PACKAGE}.{other}."):
                found.append(f"{path}:{line}: {name}")
    return found


def named_modules(path: PurePosixPath, source: str) -> Iterator[tuple[int, str]]:
    """Return the line and the full name of each module, or part of one, that a module names."""
    package = [PACKAGE, *path.parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value.replace(":", ".")
            if text.startswith("."):
                level = len(text) - len(text.lstrip("."))
                text = ".".join([*package[: len(package) - level + 1], text.lstrip(".")])
            if text.startswith(PACKAGE) and " " not in text:
                yield node.lineno, text


def count_lines(source: str) -> Counter[str]:
    """Count the lines of a module: blank, comment, docstring and code.

    A string that stands alone as a statement is a docstring, also below an attribute.
    """
    kinds: dict[int, str] = {}
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                kinds[line] = "docstring"
    code: set[int] = set()
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        lines = range(token.start[0], token.end[0] + 1)
        if token.type == tokenize.COMMENT:
            kinds.setdefault(token.start[0], "comment")
        elif token.type not in skipped and token.type != tokenize.ENDMARKER:
            code.update(line for line in lines if kinds.get(line) != "docstring")
    kinds.update(dict.fromkeys(code, "code"))
    counts = Counter(kinds.values())
    counts["lines"] = len(source.splitlines())
    counts["blank"] = counts["lines"] - len(kinds)
    return counts


def rooms_table(sources: Sources) -> str:
    """Return a table in Markdown: files and lines of each folder, ``__init__`` included."""
    kinds = ("lines", "code", "docstring", "comment", "blank")
    files: Counter[str] = Counter()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, source in sources.items():
        for room in (str(path.parent), "all"):
            files[room] += 1
            counts[room].update(count_lines(source))
    lines = [f"| room | files | {' | '.join(kinds)} |", f"|---|{'---:|' * (len(kinds) + 1)}"]
    for room in [*sorted(files.keys() - {"all"}), "all"]:
        figures = [files[room], *(counts[room][kind] for kind in kinds)]
        lines.append(f"| {room} | {' | '.join(map(str, figures))} |")
    return "\n".join(lines)


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("revision", nargs="?", help="of git; the tree's files if not given")
    parser.add_argument("--tree", type=Path, default=Path.cwd(), help="root of the repository")
    given = parser.parse_args()
    if given.revision:
        sources = at_revision(given.tree, given.revision)
    else:
        sources = in_tree(given.tree)
    if not sources:
        sys.exit(f"there is no {PACKAGE} in {given.tree}")
    print(rooms_table(sources))
    folder, most = max(modules_by_folder(sources).items(), key=lambda item: len(item[1]))
    print(f"\nMost modules in one folder: {len(most)}, in {folder}")
    for what, found in (
        ("Class names that stand twice", class_names_twice(sources)),
        ("File names that stand twice", file_names_twice(sources)),
    ):
        print(f"{what}: {len(found)}")
        for name, places in found.items():
            print(f"  {name}: {', '.join(places)}")
    crossed = crossings(sources)
    print(f"Imports between {' and '.join(APART)}: {len(crossed)}")
    for place in crossed:
        print(f"  {place}")


if __name__ == "__main__":
    main()
