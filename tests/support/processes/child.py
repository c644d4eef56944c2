"""Child processes that never outlive the test run.

Each child starts through a few lines of Python that ask the kernel for SIGKILL at the parent's
death and then become the real program (same pid). ``preexec_fn`` would do it too, but it is not
safe beside threads, and Python warns about it from 3.12 on.

The kernel counts the death of the *thread* that started the child. So one thread, which lives as
long as the process, starts them all.

A child that ended stays a zombie until ``close()``: its pid, which is also the id of its session
and process group, cannot be given to a stranger before the group was killed.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.support.processes.cleanup import Closes
from tests.support.processes.waiting import PATIENCE, wait_until

__all__ = ["ROOT", "Child", "Line", "clean_environment"]

ROOT = Path(__file__).resolve().parents[3]

_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
# A run in the background ignores Ctrl-C, and so would everything that it starts.
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""

_SCRUBBED = ("CELERY", "DJANGO_", "REDIS_", "VALKEY_", "LEADER_", "C_FORCE_ROOT")

_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
_living: weakref.WeakSet[Child] = weakref.WeakSet()


def clean_environment() -> dict[str, str]:
    """Build this process's environment without what would change Celery, Django or Redis.

    Children keep no bytecode: an ``app.py`` that is written anew within a second would be run as it
    was. They use what is there of the package.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_SCRUBBED)}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}


class Line(NamedTuple):
    """A line that a child wrote."""

    at: float
    """``time.monotonic()`` when it was read."""
    text: str
    """Without the line's end."""


class Child(Closes):
    """A running program whose output (stdout and stderr in one) is kept.

    Args:
        argv: Program and arguments.
        env: The complete environment; ``clean_environment()`` if not given.
        cwd: Working directory; the root of the repository if not given.
        name: How messages call it.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        name: str = "",
    ) -> None:
        self.name = name or Path(argv[0]).name
        self._lines: list[Line] = []
        self._news = threading.Condition()
        self._output_ended = False
        self._closed = False
        prefix = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        self._process: subprocess.Popen[str] = _spawner.submit(
            subprocess.Popen,
            [*prefix, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=dict(clean_environment() if env is None else env),
            cwd=cwd or ROOT,
            start_new_session=True,
        ).result()
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, name=f"read {self.name}", daemon=True)
        self._reader.start()
        _living.add(self)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            with self._news:
                self._lines.append(Line(time.monotonic(), text.rstrip("\n")))
                self._news.notify_all()
        with self._news:
            self._output_ended = True
            self._news.notify_all()

    @property
    def timed_lines(self) -> list[Line]:
        """All lines so far, with the moment of each."""
        with self._news:
            return list(self._lines)

    @property
    def lines(self) -> list[str]:
        """The text of all lines so far."""
        return [line.text for line in self.timed_lines]

    @property
    def output(self) -> str:
        """All that was written so far."""
        return "\n".join(self.lines)

    def wait_for_line(
        self, wanted: str | Callable[[str], object], timeout: float = PATIENCE, *, after: int = 0
    ) -> Line:
        """Wait for a line that contains a text or satisfies a predicate.

        Args:
            wanted: Part of the line, or a predicate on its text.
            timeout: Seconds.
            after: How many of the first lines to leave out: ``len(child.lines)`` for new ones only.

        Raises:
            AssertionError: No such line in time, or the output ended without it.
        """
        deadline = time.monotonic() + timeout
        seen = after
        with self._news:
            while True:
                for line in self._lines[seen:]:
                    if wanted in line.text if isinstance(wanted, str) else wanted(line.text):
                        return line
                seen = max(seen, len(self._lines))
                left = deadline - time.monotonic()
                if left <= 0 or self._output_ended:
                    why = "its output ended" if self._output_ended else f"{timeout:g} s passed"
                    raise AssertionError(f"{self.name}: no line {wanted!r}, {why}{self._tail()}")
                self._news.wait(left)

    def _tail(self) -> str:
        with self._news:
            last = [line.text for line in self._lines[-40:]]
        return f"; the last lines of {self.name}:\n  " + "\n  ".join(last)

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; ``None`` while it runs."""
        if self._closed:
            return self._process.returncode
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        result = os.waitid(os.P_PID, self.pid, flags)
        if result is None:
            return None
        return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

    @property
    def running(self) -> bool:
        """Whether it has not ended. A paused child runs."""
        return self.returncode is None

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end and return the exit status.

        Raises:
            AssertionError: It still runs after ``timeout`` seconds.
        """
        wait_until(
            lambda: not self.running, timeout, lambda: f"the end of {self.name}{self._tail()}"
        )
        # A grandchild that inherited the pipe may keep it open: then the rest comes later.
        self._reader.join(0.2)
        code = self.returncode
        assert code is not None
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; nothing happens if it has ended."""
        if not self._closed:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL the child alone, not what it started, and wait for its end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self, timeout: float = 45.0) -> int:
        """SIGTERM, and return the exit status.

        A worker that is stopped while a result of its child is on the way leaves the child waiting
        for 30 s (``_ensure_messages_consumed`` of billiard 4.3), with our package and without.

        Raises:
            AssertionError: It did not end by itself within ``timeout`` seconds.
        """
        self.signal(signal.SIGTERM)
        self.resume()
        return self.wait(timeout)

    def pause(self) -> None:
        """SIGSTOP the child alone, and wait until it stands still."""
        self.signal(signal.SIGSTOP)
        if not self._closed:
            # Consumes the report of the stop, which a later pause sends anew.
            wait_until(self._stopped_or_ended, 30, f"the pause of {self.name}")

    def _stopped_or_ended(self) -> bool:
        flags = os.WSTOPPED | os.WNOHANG
        return os.waitid(os.P_PID, self.pid, flags) is not None or not self.running

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """SIGKILL the child and all of its process group. May be called again."""
        if self._closed:
            return
        os.killpg(self.pid, signal.SIGKILL)
        self._closed = True
        self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None and not self._reader.is_alive():
            self._process.stdout.close()
        _living.discard(self)


@atexit.register
def _close_all() -> None:
    for child in list(_living):
        child.close()
