"""One tool with one beat, in a process of its own: what the tool sees of each message.

``python -m tests.tools.scene TOOL SCHEDULER BROKER KEY`` prints what was seen, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from tests.tools.others import OTHERS
from tests.tools.stage import Seen, ToolStage
from tests.tools.stores import STORES
from tests.tools.tracers import TRACERS

__all__ = ["TOOLS"]

TOOLS: dict[str, Callable[[ToolStage], Seen]] = {**OTHERS, **TRACERS, **STORES}


def play(tool: str, kind: str, broker: str, key: str) -> dict[str, Any]:
    """Publish and execute one run of each entry; return what the tool saw."""
    stage = ToolStage(kind, broker, key)
    try:
        seen = TOOLS[tool](stage)
        messages = stage.publish()
        stage.execute(len(messages))
        nonces = [each["headers"].get("leader_publication", "") for each in messages]
        return {
            "messages": len(messages),
            "executed": len(set(stage.ran)),
            "transactional": sum(nonce.startswith("once-") for nonce in nonces),
            **seen(messages),
            **({"not compared": stage.notes} if stage.notes else {}),
        }
    finally:
        for end in reversed(stage.at_end):
            end()


if __name__ == "__main__":
    print(json.dumps(play(*sys.argv[1:])))
