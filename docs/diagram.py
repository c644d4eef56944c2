"""Draws the states of a candidate from the table that moves it, into docs/explanation/concepts.md.

python -m docs.diagram            writes the diagram
python -m docs.diagram --check    fails if the page does not show the present table
"""

from __future__ import annotations

import sys
from pathlib import Path

from celery_safe_leader._core.state import TRANSITIONS, State

__all__ = ["PAGE", "draw", "main", "with_diagram"]

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


def with_diagram(page: str) -> str:
    """Return a page with the present diagram between its two marks.

    Raises:
        ValueError: The page has no marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page must hold {BEGIN!r} and, later, {END!r}")
    return f"{head}{BEGIN}\n{draw()}\n{END}{tail}"


def main(arguments: list[str]) -> int:
    """Write the diagram, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    current = with_diagram(page)
    if arguments == ["--check"]:
        if page != current:
            print(f"{PAGE} is out of date: run python -m docs.diagram", file=sys.stderr)
        return int(page != current)
    PAGE.write_text(current, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
