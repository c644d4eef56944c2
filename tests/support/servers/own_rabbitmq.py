"""A RabbitMQ node of a test's own on 127.0.0.1, which may be stopped, killed and started again."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import weakref
from pathlib import Path

from kombu.connection import Connection

from tests.support.network.ports import free_port
from tests.support.processes.child import Child, clean_environment
from tests.support.processes.cleanup import Closes
from tests.support.processes.waiting import wait_until

__all__ = ["OwnRabbitMQ", "find_rabbitmq"]

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
log.console = true
log.console.level = warning
log.file = false
vm_memory_high_watermark.absolute = 512MB
disk_free_limit.absolute = 64MB
"""
_START = 60.0
"""Seconds that a node may take until it answers."""


def find_rabbitmq() -> Path | None:
    """Return the folder of RabbitMQ's own scripts, which start it as whoever calls them."""
    folders = (Path("/usr/lib/rabbitmq/bin"), Path("/opt/rabbitmq/sbin"))
    return next((folder for folder in folders if (folder / "rabbitmq-server").exists()), None)


class OwnRabbitMQ(Closes):
    """A node with the user guest, without plugins. Queues that are durable outlive its ends.

    Not started by the constructor: call ``start()`` or use it as a context manager.
    """

    def __init__(self) -> None:
        scripts = find_rabbitmq()
        if scripts is None:
            raise RuntimeError("there is no rabbitmq-server on this machine")
        self._scripts = scripts
        self.host = "127.0.0.1"
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="safe-leader-rabbitmq-"))
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self.folder, True)
        self._process: Child | None = None
        file = self.folder / "rabbitmq.conf"
        file.write_text(_CONFIGURATION.format(port=self.port))
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "environment").touch()
        self._env = {
            **clean_environment(),
            "HOME": str(self.folder),
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_NODENAME": f"safe-leader-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONFIG_FILE": str(file),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "environment"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
            # Becomes the node instead of a shell beside it, so that signals reach the node.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def url(self) -> str:
        """``amqp://guest:guest@127.0.0.1:port//``."""
        return f"amqp://guest:guest@{self.host}:{self.port}//"

    def start(self) -> OwnRabbitMQ:
        """Start it, with whatever data its folder holds, and wait until it answers."""
        if self._process is not None:
            if self._process.running:
                raise ValueError(f"the node at port {self.port} runs already")
            self._process.close()
        argv = [str(self._scripts / "rabbitmq-server")]
        self._process = Child(argv, env=self._env, cwd=self.folder, name=f"rabbitmq:{self.port}")
        wait_until(self._answers, _START, lambda: f"RabbitMQ answering; {self.log}")
        return self

    @property
    def log(self) -> str:
        """What the process that was started last has logged."""
        return "" if self._process is None else self._process.output

    def _answers(self) -> bool:
        assert self._process is not None
        if not self._process.running:
            raise AssertionError(f"RabbitMQ ended with {self._process.returncode}: {self.log}")
        try:
            with Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``, and return what it printed.

        Raises:
            AssertionError: It failed.
        """
        command = [str(self._scripts / "rabbitmqctl"), "--quiet", *arguments]
        done = subprocess.run(
            command, env=self._env, cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """SIGTERM, as an operator would."""
        assert self._process is not None
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.resume()

    def close(self) -> None:
        """End the node and remove its folder. May be called again."""
        if self._process is not None:
            self._process.close()
        self._remove_folder()

    def __enter__(self) -> OwnRabbitMQ:
        return self.start()
