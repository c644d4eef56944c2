"""What clients send to a server, as MONITOR shows it."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.servers.server import ExternalServer

__all__ = ["Monitor"]


class Monitor:
    """Notes the commands of all clients from now on; not those that scripts run."""

    def __init__(self, server: ExternalServer) -> None:
        self.commands: list[list[str]] = []
        """Words of each command, the name in capitals."""
        self._client: Any = server.client(socket_timeout=None)  # its end would be the monitor's
        self._monitor = self._client.monitor()
        self._monitor.__enter__()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                command = self._monitor.next_command()
            except (OSError, ValueError, AttributeError):
                return  # the client was closed
            if command["client_type"] != "lua":
                name, *words = command["command"].split()
                self.commands.append([name.upper(), *words])
