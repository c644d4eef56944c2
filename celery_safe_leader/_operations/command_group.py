"""The group of all ``leader …`` commands that need no Celery.

For ``celery -A proj leader`` and for ``python -m celery_safe_leader``.
"""

from __future__ import annotations

from importlib import import_module

import click

__all__ = ["CommandGroup"]

_MODULES = {
    "check": "health.check_command",
    "history": "history_command",
    "ledger": "moving.ledger_commands",
    "pause": "pause_commands",
    "probe": "health.probe_command",
    "resign": "resign_command",
    "resume": "pause_commands",
    "runs": "runs_command",
    "status": "status_command",
    "watch": "watch_command",
    "web": "page.web_command",
}


class CommandGroup(click.Group):
    """Imports a command when it is used: a probe runs each few seconds, and needs one of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*super().list_commands(ctx), *_MODULES})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; ``None`` if there is none of the name."""
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"celery_safe_leader._operations.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command
