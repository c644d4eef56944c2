"""Real Redis and Valkey servers on 127.0.0.1, each in a folder of its own."""

from __future__ import annotations

import shutil
import signal
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.network.ports import free_port
from tests.support.processes.child import Child
from tests.support.processes.cleanup import Closes
from tests.support.processes.waiting import wait_until
from tests.support.servers.kinds import OLDEST, find_binary

__all__ = ["ExternalServer", "Server"]


class ExternalServer(Closes):
    """A server that somebody else runs. Tests may write keys of their own, and nothing more."""

    kind = "external"

    def __init__(self, url: str) -> None:
        self._url = url
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        """``redis://…``, with the password if there is one."""
        return self._url

    def client(self, **options: Any) -> redis.Redis:
        """Create a client that reports every error at once; closed together with the server.

        Args:
            options: For ``redis.Redis``.
        """
        defaults: dict[str, Any] = {
            "decode_responses": True,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "retry": Retry(NoBackoff(), 0),
        }
        client = redis.Redis.from_url(self.url, **{**defaults, **options})
        self._clients.append(client)
        return client

    def close(self) -> None:
        """Close the clients."""
        while self._clients:
            self._clients.pop().close()


class Server(ExternalServer):
    """A server process, without persistence unless ``config`` asks for it.

    Not started by the constructor: call ``start()`` or use it as a context manager. It keeps its
    port and folder until ``close()``, over any number of ends and starts.

    Args:
        kind: ``valkey``, ``redis`` or ``redis-6.2``.
        password: ``requirepass``.
        replica_of: Master, either a ``Server`` or host and port (of a proxy, say).
        unix_socket: Also listen on a socket in the folder: see ``unix_url``.
        config: More lines of the configuration file, such as ``{"appendonly": "yes"}``.
        env: More environment of the process.
    """

    def __init__(
        self,
        kind: str = "valkey",
        *,
        password: str = "",
        replica_of: Server | tuple[str, int] | None = None,
        unix_socket: bool = False,
        config: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("")
        self.kind = kind
        self.password = password
        self.replica_of = replica_of
        self.host = "127.0.0.1"
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="safe-leader-"))
        self._remove_folder = weakref.finalize(self, shutil.rmtree, self.folder, True)
        self.socket_path = self.folder / "socket" if unix_socket else None
        self._config = dict(config or {})
        self._env = {"LC_ALL": "C", **(env or {})}
        self._process: Child | None = None
        self._started_once = False

    @property
    def _login(self) -> str:
        return f":{quote(self.password, safe='')}@" if self.password else ""

    @property
    def url(self) -> str:
        """``redis://[:password@]127.0.0.1:port/0``."""
        return f"redis://{self._login}{self.host}:{self.port}/0"

    @property
    def unix_url(self) -> str:
        """``unix://…`` of a server that was made with ``unix_socket=True``."""
        if self.socket_path is None:
            raise ValueError("this server was made without unix_socket=True")
        return f"unix://{self._login}{self.socket_path}?db=0"

    @property
    def process(self) -> Child:
        """The process that was started last."""
        if self._process is None:
            raise ValueError(f"the {self.kind} server at port {self.port} was never started")
        return self._process

    @property
    def log(self) -> str:
        """What the process that was started last has logged."""
        return self.process.output

    def _configuration(self) -> str:
        lines = {
            "bind": self.host,
            "port": str(self.port),
            "dir": str(self.folder),
            "daemonize": "no",
            "save": '""',
            "appendonly": "no",
            # Replication without the usual pauses: five seconds before a first copy is sent,
            # and, further down, ten at the end for replicas that lag.
            "repl-diskless-sync-delay": "0",
        }
        if self.kind != OLDEST:  # which knows neither
            lines |= {"enable-debug-command": "local", "shutdown-timeout": "0"}
        if self.password:
            lines |= {"requirepass": self.password, "masterauth": self.password}
        if self.socket_path is not None:
            lines["unixsocket"] = str(self.socket_path)
        if isinstance(self.replica_of, Server):
            lines["replicaof"] = f"{self.replica_of.host} {self.replica_of.port}"
            if self.replica_of.password:
                lines["masterauth"] = self.replica_of.password
        elif self.replica_of is not None:
            lines["replicaof"] = "{} {}".format(*self.replica_of)
        lines |= self._config
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _spawn(self) -> None:
        binary = find_binary(self.kind)
        if binary is None:
            raise RuntimeError(f"there is no {self.kind} server on this machine")
        file = self.folder / "server.conf"
        file.write_text(self._configuration())
        if self._process is not None:
            self._process.close()
        name = f"{self.kind}:{self.port}"
        self._process = Child([binary, str(file)], env=self._env, name=name)

    def start(self, *, ready: bool = True) -> Server:
        """Start it, with whatever data its folder holds, and wait until it answers.

        Args:
            ready: ``False`` returns at once.
        """
        if self._process is not None and self._process.running:
            raise ValueError(f"the {self.kind} server at port {self.port} runs already")
        self._spawn()
        for _ in range(5):
            if self._started_once or not ready:
                break
            # The port was free a moment ago. Before anybody knows it, it may still change.
            wait_until(lambda: self._answers() or not self.process.running, 30, self._standing)
            if not self.process.running:
                self.process.wait()  # for the last of its output
            if self.process.running or "in use" not in self.log:
                break
            self.port = free_port()
            self._spawn()
        self._started_once = True
        if ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Wait until it answers and, if it is a replica, has copied its master."""
        wait_until(self._ready, timeout, self._standing)

    def _ready(self) -> bool:
        if not self.process.running:
            self.process.wait()  # for the last of its output
            raise AssertionError(self._standing())
        return self._answers() and (self.replica_of is None or self._follows())

    def _answers(self) -> bool:
        try:
            with self._probe() as probe:
                # Another server may have been faster at the port.
                return bool(probe.info("server")["process_id"] == self.process.pid)
        except (redis.ConnectionError, redis.TimeoutError):
            return False

    def _follows(self) -> bool:
        with self._probe() as probe:
            return bool(probe.info("replication").get("master_link_status") == "up")

    def _probe(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0))

    def _standing(self) -> str:
        state = "runs" if self.process.running else f"ended with {self.process.returncode}"
        return f"{self.kind} at port {self.port} answering; it {state} and logged:\n{self.log}"

    @property
    def running(self) -> bool:
        """Whether the process has not ended. A paused one runs."""
        return self._process is not None and self._process.running

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()

    def stop(self) -> None:
        """SIGTERM, as an operator would."""
        self.process.stop()

    def pause(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    def restart_empty(self) -> Server:
        """Kill it if it runs, remove its data, and start it on the same port."""
        if self.running:
            self.process.signal(signal.SIGKILL)
            self.process.wait()
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        return self.start()

    def promote(self) -> None:
        """Make a replica a master, also for later starts."""
        self.replica_of = None
        with self._probe() as probe:
            probe.execute_command("REPLICAOF", "NO", "ONE")

    def follow(self, master: Server | tuple[str, int]) -> None:
        """Make it a replica of another server, also for later starts. See ``wait_ready()``."""
        self.replica_of = master
        host, port = (master.host, master.port) if isinstance(master, Server) else master
        with self._probe() as probe:
            if isinstance(master, Server) and master.password:
                probe.config_set("masterauth", master.password)
            probe.execute_command("REPLICAOF", host, port)

    def close(self) -> None:
        """End the process and remove its folder. May be called again."""
        super().close()
        if self._process is not None:
            self._process.close()
        self._remove_folder()

    def __enter__(self) -> Server:
        return self.start()
