"""Draws the states of a candidate from the table that moves it, into docs/explanation/concepts.md.

python -m docs.diagram            writes the diagram
python -m docs.diagram --check    fails if the page does not show the present table
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from celery_safe_leader._core.state import TRANSITIONS, State

__all__ = ["END", "PAGE", "draw", "main", "with_diagram", "write_or_check"]

PAGE = Path(__file__).parent / "explanation" / "concepts.md"
BEGIN = "<!-- diagram: python -m docs.diagram -->"
END = "<!-- end of the diagram -->"


def draw() -> str:
    """Return the diagram, as Mermaid, which GitHub shows as a picture."""
    lines = ["stateDiagram-v2", f"    [*] --> {State.IDLE.value}"]
    for state, moves in TRANSITIONS.items():
        for move, then in moves.items():
            # What changes nothing would only be noise.
            if then is not state:
                lines.append(f"    {state.value} --> {then.value}: {move.value}")
    lines.append(f"    {State.CLOSED.value} --> [*]")
    return "\n".join(("```mermaid", *lines, "```"))


def with_diagram(page: str, begin: str = BEGIN, drawing: Callable[[], str] = draw) -> str:
    """Return a page with the present diagram between its two marks.

    Args:
        page: Text of the page.
        begin: The first mark. The second one is ``END``.
        drawing: Returns the diagram.

    Raises:
        ValueError: The page has no marks.
    """
    head, found, rest = page.partition(begin)
    _, end, tail = rest.partition(END)
    if not found or not end:
        raise ValueError(f"the page must hold {begin!r} and, later, {END!r}")
    return f"{head}{begin}\n{drawing()}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Write the diagram, or check it."""
    return write_or_check(PAGE, with_diagram, "docs.diagram", arguments)


def write_or_check(
    path: Path, current_form: Callable[[str], str], module: str, arguments: list[str]
) -> int:
    """Write a page in its current form, or check whether it has that form.

    Args:
        path: Of the page.
        current_form: Returns a page as it should be.
        module: What to run with ``python -m`` if it is out of date.
        arguments: Of the command line; ``--check`` writes nothing.

    Returns:
        The exit code.
    """
    page = path.read_text(encoding="utf-8")
    current = current_form(page)
    if arguments == ["--check"]:
        if page != current:
            print(f"{path} is out of date: run python -m {module}", file=sys.stderr)
        return int(page != current)
    path.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
