"""Child processes of the demo: each in a session of its own, its output in a file."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from billiard.util import set_pdeathsig


class DemoError(Exception):
    """The demo did not show what it should."""


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Wait for a condition, looking every 10 ms.

    Raises:
        DemoError: It did not come true within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(0.01)


def free_port() -> int:
    """Return a TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _prepare_child() -> None:
    """Run in the child: it ends with the demo, and heeds SIGINT even if the demo ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        set_pdeathsig(signal.SIGINT)


class Child:
    """One process: a server, a beat or a worker.

    It has a session of its own, so that Ctrl-C reaches the demo alone, which then ends the
    children in the right order.
    """

    def __init__(self, name: str, command: list[str], log: Path, cwd: Path) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_prepare_child,  # safe: the demo has one thread
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> float:
        """Send a signal to the process itself, and return the wall clock's time just before."""
        sent_at = time.time()
        self._process.send_signal(number)
        return sent_at

    def wait(self, timeout: float) -> None:
        """Wait for its end."""
        wait_until(lambda: not self.running, timeout, f"{self.name} to end")

    def destroy(self) -> None:
        """Kill whatever is left of it, its own children included."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()

    def wait_for_line(self, text: str, timeout: float) -> None:
        """Wait until its output contains a string."""

        def found() -> bool:
            if not self.running:
                raise DemoError(f"{self.name} ended with status {self._process.returncode}")
            return text in self.log.read_text(errors="replace")

        wait_until(found, timeout, f"{text!r} in the output of {self.name}")

    def tail(self, lines: int = 25) -> str:
        """Return the end of its output."""
        with self.log.open(errors="replace") as output:
            return "".join(deque(output, lines))
