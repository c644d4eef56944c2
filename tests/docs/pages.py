"""Reads Markdown pages: code blocks, tables, links, anchors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support.processes.child import ROOT

__all__ = ["PAGES", "Block", "Link", "Page", "anchor_of", "page"]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", re.DOTALL)
_CODE_SPAN = re.compile(r"`[^`]+`")


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int


class Link(NamedTuple):
    """A link, as written."""

    path: str
    anchor: str


class Page:
    """One page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """All fenced blocks."""
        return [
            Block(found[1], found[2], self.text.count("\n", 0, found.start()) + 2)
            for found in _FENCE.finditer(self.text)
        ]

    def python(self) -> list[Block]:
        """The blocks of Python."""
        return [block for block in self.blocks if block.language == "python"]

    @property
    def prose(self) -> str:
        """The text without fenced blocks."""
        return _FENCE.sub("", self.text)

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind ``#``."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {anchor_of(heading) for heading in headings}

    @property
    def links(self) -> list[Link]:
        """The links to files of this repository and to headings."""
        text = _CODE_SPAN.sub("", self.prose)
        targets = [target for target in _LINK.findall(text) if "://" not in target]
        return [Link(*target.partition("#")[::2]) for target in targets]

    @property
    def commands(self) -> list[str]:
        """The commands: indented lines, and code spans that begin with a program."""
        indented = re.findall(r"^ {4}(\S.*?)(?: {2,}#.*)?$", self.prose, re.MULTILINE)
        programs = r"`((?:make|celery|docker compose|python -m) [^`]+)`"
        return [" ".join(line.split()) for line in indented + re.findall(programs, self.prose)]

    def rows(self, first_header: str) -> list[list[str]]:
        """The rows of every table whose first column has this header; cells without ``|``."""
        return list(self._rows(first_header))

    def _rows(self, first_header: str) -> Iterator[list[str]]:
        inside = False
        for line in self.prose.splitlines():
            if not line.startswith("|"):
                inside = False
                continue
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            if cells[0] == first_header:
                inside = True
            elif inside and not set(line) <= set("|-"):
                yield cells


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def page(name: str) -> Page:
    """Read a page by its path in the repository."""
    return Page(ROOT / name)


PAGES = [
    Page(path)
    for path in sorted(
        [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "example_project" / "README.md"]
    )
]
