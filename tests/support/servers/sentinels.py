"""A master with its replicas, watched by Sentinels: all of them real, on 127.0.0.1."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.network.ports import free_port
from tests.support.processes.child import Child
from tests.support.processes.cleanup import CleansUp
from tests.support.processes.waiting import wait_until
from tests.support.servers import Server, find_binary

__all__ = ["MASTER_NAME", "Sentinel", "SentinelGroup", "is_master"]

MASTER_NAME = "mymaster"
_DOWN_AFTER = 500
"""Milliseconds until a Sentinel takes a silent server for down."""
_SHORT_PAUSES = (
    "info-period",
    "300",
    "ask-period",
    "200",
    "publish-period",
    "300",
    "ping-period",
    "200",
)
"""Milliseconds: Sentinels hear of each other, and of changes, in less than a second."""


class Sentinel:
    """One Sentinel process.

    Args:
        kind: Of its program, as of a ``Server``.
        master: What it watches.
        password: ``requirepass`` of its own.
    """

    def __init__(self, kind: str, master: Server, *, password: str = "") -> None:
        self.port = free_port()
        self.password = password
        self._folder = Path(tempfile.mkdtemp(prefix="safe-leader-sentinel-"))
        file = self._folder / "sentinel.conf"
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"sentinel monitor {MASTER_NAME} {master.host} {master.port} 2",
            f"sentinel down-after-milliseconds {MASTER_NAME} {_DOWN_AFTER}",
            f"sentinel failover-timeout {MASTER_NAME} 4000",
            f"sentinel parallel-syncs {MASTER_NAME} 2",
        ]
        if master.password:
            lines.append(f"sentinel auth-pass {MASTER_NAME} {master.password}")
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        file.write_text("\n".join(lines) + "\n")
        binary = find_binary(kind)
        assert binary is not None
        argv = [binary, str(file), "--sentinel"]
        self.process = Child(argv, env={"LC_ALL": "C"}, name=f"sentinel:{self.port}")

    def client(self) -> redis.Redis:
        """Make a client, to be closed by the caller."""
        return redis.Redis(
            port=self.port,
            password=self.password or None,
            socket_timeout=1,
            decode_responses=True,
            retry=Retry(NoBackoff(), 0),
        )

    def hasten(self, *pauses: str) -> None:
        """Shorten its pauses, once it answers: names and milliseconds."""

        def told() -> bool:
            try:
                with self.client() as client:
                    return bool(client.execute_command("SENTINEL", "DEBUG", *pauses))
            except redis.ConnectionError:
                return False
            except redis.ResponseError as error:
                # Redis 6 knows no such order, and goes its own pace.
                return "nknown" in str(error)

        wait_until(told, 30, lambda: f"a Sentinel that answers: {self.process.output}")

    def state(self) -> dict[str, str]:
        """Return what it knows of the master; nothing while it does not answer."""
        try:
            with self.client() as client:
                flat = client.execute_command("SENTINEL", "MASTER", MASTER_NAME)
                where = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME)
        except (redis.ConnectionError, redis.TimeoutError):
            return {}
        state = flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=True))
        return {**{str(k): str(v) for k, v in state.items()}, "now at": str(where[1])}

    def close(self) -> None:
        """End it."""
        self.process.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class SentinelGroup(CleansUp):
    """One master, two replicas, three Sentinels.

    Args:
        kind: Of all programs.
        password: Of the servers.
        sentinel_password: Of the Sentinels.
        hasty: Whether all goes faster than the Sentinels would have it. If not, it takes ten
            seconds after an ordered failover until the old master is none.
    """

    def __init__(
        self, kind: str, *, password: str = "", sentinel_password: str = "", hasty: bool = True
    ) -> None:
        self._pauses = _SHORT_PAUSES if hasty else ("info-period", "10000")
        self.kind = kind
        self.password = password
        self.sentinel_password = sentinel_password
        self.servers: list[Server] = []
        self.sentinels: list[Sentinel] = []

    def __enter__(self) -> SentinelGroup:
        with ExitStack() as cleanup:
            master = Server(self.kind, password=self.password, config={"repl-timeout": "5"})
            cleanup.callback(master.close)
            self.servers = [master.start()]
            for _ in range(2):
                replica = Server(self.kind, password=self.password, replica_of=master)
                cleanup.callback(replica.close)
                self.servers.append(replica.start(ready=False))
            for replica in self.servers[1:]:
                replica.wait_ready(20)
            for _ in range(3):
                sentinel = Sentinel(self.kind, master, password=self.sentinel_password)
                cleanup.callback(sentinel.close)
                self.sentinels.append(sentinel)
            for sentinel in self.sentinels:
                sentinel.hasten(*self._pauses)
            self.wait_whole(replicas=2)
            self._cleanup = cleanup.pop_all()
        return self

    @property
    def url(self) -> str:
        """``sentinel://…;sentinel://…``."""
        login = f":{self.password}@" if self.password else ""
        return ";".join(f"sentinel://{login}127.0.0.1:{s.port}" for s in self.sentinels)

    @property
    def options(self) -> dict[str, object]:
        """Options to the URL, which are transport options of kombu and Celery, too."""
        kwargs = {"password": self.sentinel_password} if self.sentinel_password else {}
        return {"master_name": MASTER_NAME, "sentinel_kwargs": kwargs}

    def wait_whole(self, *, replicas: int, timeout: float = 30.0) -> None:
        """Wait until every Sentinel knows the others and so many living replicas."""
        wait_until(
            lambda: all(self._knows_all(s.state(), replicas) for s in self.sentinels),
            timeout,
            lambda: f"Sentinels that know all: {[s.state() for s in self.sentinels]}",
            interval=0.05,
        )

    @staticmethod
    def _knows_all(state: dict[str, str], replicas: int) -> bool:
        return (
            state.get("num-other-sentinels") == "2"
            and int(state.get("num-slaves", 0)) >= replicas
            and state.get("flags") == "master"
        )

    @property
    def master(self) -> Server:
        """The server that most Sentinels name."""
        ports = [s.state().get("now at") for s in self.sentinels]
        named = max(set(ports), key=ports.count)
        return next(server for server in self.servers if str(server.port) == named)

    def replicas(self) -> list[Server]:
        """Return the others that run."""
        master = self.master
        return [server for server in self.servers if server is not master and server.running]

    def wait_failed_over(
        self, former: Server, timeout: float = 30.0, *, replicas: int = 0
    ) -> float:
        """Wait until another server is the master, and so many follow it; return the moment."""

        def promoted() -> bool:
            return any(s is not former and is_master(s) for s in self.servers if s.running)

        def names() -> bool:
            return all(s.state().get("now at") != str(former.port) for s in self.sentinels)

        wait_until(promoted, timeout, lambda: f"a promotion: {self._logs()}", interval=0.02)
        wait_until(names, timeout, lambda: f"Sentinels that agree: {self._logs()}", interval=0.02)
        master = self.master
        with master.client() as client:
            wait_until(lambda: _followers(client) >= replicas, timeout, f"{replicas} replicas")
        return time.monotonic()

    def fail_over(self) -> None:
        """Tell a Sentinel to make another server the master. Returns at once."""
        with self.sentinels[0].client() as client:
            wait_until(lambda: _told(client), 30, f"SENTINEL FAILOVER: {self._logs()}")

    def _logs(self) -> str:
        return "\n".join(sentinel.process.output[-1500:] for sentinel in self.sentinels)


def _told(client: redis.Redis) -> bool:
    try:
        return bool(client.execute_command("SENTINEL", "FAILOVER", MASTER_NAME))
    except redis.ResponseError as error:
        if "NOGOODSLAVE" in str(error) or "INPROG" in str(error):
            return False
        raise


def _followers(client: redis.Redis) -> int:
    info: dict[str, object] = client.info("replication")
    return sum("online" in str(value) for name, value in info.items() if name.startswith("slave"))


def is_master(server: Server) -> bool:
    """Whether it says so; one that does not answer says nothing."""
    try:
        with server.client(socket_timeout=0.5) as client:
            info: dict[str, str] = client.info("replication")
            return info["role"] == "master"
    except (redis.ConnectionError, redis.TimeoutError):
        return False
