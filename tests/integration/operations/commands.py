"""Runs the ``leader`` commands in this process, and writes records as others would leave them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from celery_safe_leader.__main__ import main
from celery_safe_leader._store.keys import ElectionKeys
from tests.support.servers import ExternalServer

__all__ = ["Found", "Keeper", "invoke"]

HOSTILE = ("\x1b[2J\x1b]0;gone\x07", "<script>alert(1)</script>", "two\nlines\r\t", "x" * 1000)
"""What anybody who may write to Redis could put into a name or a reason."""


@dataclass(frozen=True)
class Found:
    """What a command did."""

    code: int
    output: str

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.output)


def invoke(url: str, key: str, *words: str) -> Found:
    """Run a command as ``python -m celery_safe_leader`` does."""
    done = CliRunner().invoke(main, ["--url", url, "--key", key, *words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert "Traceback" not in done.output
    return Found(done.exit_code, done.output)


class Keeper:
    """Writes the record of an election as a leader that is not there."""

    def __init__(self, server: ExternalServer, key: str, role: str = "beat") -> None:
        self.client: Any = server.client()
        self.keys = ElectionKeys(key, role)

    def now_us(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds) * 1_000_000 + int(micros)

    @property
    def epoch(self) -> str:
        info = self.client.info()
        return f"{info['run_id']}:{info['master_replid']}"

    def write(self, *, silent_for: float = 0.0, **fields: Any) -> None:
        """Write it as it is so many seconds after a renewal."""
        renewed = self.now_us() - round(silent_for * 1e6)
        record = {
            "holder": "host:1:abc",
            "token": 1_790_000_000_000,
            "renewal": f"nonce.1-{renewed}",
            "resigned": "0",
            "ttl": 60_000,
            "epoch": self.epoch,
        }
        self.client.hset(self.keys.lease, mapping={**record, **fields})

    def tell(self, event: str, *, ago: float = 0.0, **fields: Any) -> None:
        """Add to the history."""
        at = self.now_us() // 1000 - round(ago * 1000)
        told = {"event": event, "holder": "host:1:abc", "token": 1, "reason": "", "at": at}
        self.client.xadd(self.keys.history, {**told, **fields})
