"""Draws the states of a run from the table that moves it, into docs/explanation/architecture.md.

python -m tools.run_states            writes the diagram
python -m tools.run_states --check    fails if the page does not show the present table
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from celery_safe_leader._dispatch.run import TRANSITIONS, RunState
from docs.diagram import with_diagram, write_or_check

__all__ = ["BEGIN", "PAGE", "draw", "main"]

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "architecture.md"
BEGIN = "<!-- diagram: python -m tools.run_states -->"
_STARTS = (RunState.SCHEDULED, RunState.UNSETTLED)
"""How a run begins: it falls due, or an earlier leader left it claimed."""


def draw() -> str:
    """Return the diagram, as Mermaid, which GitHub shows as a picture."""
    return "\n".join(
        ("```mermaid", "stateDiagram-v2", *(f"    {line}" for line in _lines()), "```")
    )


def _lines() -> Iterator[str]:
    for state in RunState:
        if _id(state) != state.value:
            yield f'state "{state.value}" as {_id(state)}'
    for start in _STARTS:
        yield f"[*] --> {_id(start)}"
    for state in RunState:
        # A set has no order, and the page should not change from one run to the next.
        following = [after for after in RunState if after in TRANSITIONS[state]]
        for after in following:
            yield f"{_id(state)} --> {_id(after)}"
        if not following:
            yield f"{_id(state)} --> [*]"


def _id(state: RunState) -> str:
    return state.value.replace(" ", "_")


def main(arguments: list[str]) -> int:
    """Write the diagram, or check it."""
    current_form = partial(with_diagram, begin=BEGIN, drawing=draw)
    return write_or_check(PAGE, current_form, "tools.run_states", arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
