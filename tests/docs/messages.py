"""Finds what the package can say: texts of errors and log lines, in Python and Lua."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.support.processes.child import ROOT

__all__ = ["log_lines", "texts"]

PACKAGE = ROOT / "celery_safe_leader"
_PLACE = re.compile(r"%[-.\d]*[a-zA-Z]")
_LUA_JOIN = re.compile(r"'\s*\.\.\s*'")
# _complain() is the dispatcher's way to say the same error once a minute.
_SAYING = {"info", "warning", "error", "exception", "critical", "_complain"}


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield str(path.relative_to(ROOT)), node


def texts() -> str:
    """Return every text in the package, those in Lua too, one a line."""
    constants = [
        node.value
        for _, node in _nodes()
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    scripts = [
        _LUA_JOIN.sub("", path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.lua")
    ]
    return "\n".join(constants + scripts)


def log_lines() -> dict[str, re.Pattern[str]]:
    """Return where each log line is, and what its explanation must look like."""
    found: dict[str, re.Pattern[str]] = {}
    for path, node in _nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_logger = isinstance(node.func.value, ast.Name) and node.func.value.id == "logger"
        says = node.func.attr in _SAYING and (of_logger or node.func.attr == "_complain")
        if not says or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        pieces = [re.escape(piece) for piece in _PLACE.split(str(node.args[0].value))]
        found[f"{path}:{node.lineno}"] = re.compile("`" + "[^`]+".join(pieces) + "`")
    return found
