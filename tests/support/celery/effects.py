"""Calls that have an effect each, their producers, and the store that refuses old tokens.

The store is what a user's would be: it takes an effect only under a token that is not older than
the newest it has seen, and each call's effect once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.support.processes import Child, Children

__all__ = ["EFFECTS", "Log", "Producer", "Run"]

EFFECTS = """
# Above: WORK, the seconds that each takes.
from celery_safe_leader.errors import LeadershipLostError
from celery_safe_leader.tasks import current_leadership, leader_only

# KEYS newest token, effects, log; ARGV call, token, who. Returns what became of it.
WRITE = '''
local newest = tonumber(redis.call('GET', KEYS[1]) or '0')
local outcome = 'refused'
if tonumber(ARGV[2]) >= newest then
    redis.call('SET', KEYS[1], ARGV[2])
    outcome = redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 and 'written' or 'again'
end
redis.call('RPUSH', KEYS[3], ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. outcome)
return outcome
'''
write = store.register_script(WRITE)

class Refused(Exception):
    pass

@app.task(
    name="effect",
    acks_late=True,
    autoretry_for=(Refused, LeadershipLostError),
    max_retries=None,
    retry_backoff=False,
    default_retry_delay=0.1,
    retry_jitter=False,
)
@leader_only
def effect(call):
    leadership = current_leadership()
    left = leadership.remaining()
    who = f"{os.getppid()} {left:.6f}"
    time.sleep(WORK)
    if write(["newest", "effects", "log"], [call, leadership.token, who]) == b"refused":
        raise Refused(call)
"""

_PRODUCE = """
import json
import sys
import time

import app

name, rate, seconds, path = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
sent, unknown, number = [], [], 0
begin = time.monotonic()
while time.monotonic() < begin + seconds:
    call = f"{name}-{number}"
    number += 1
    try:
        app.effect.apply_async((call,), retry=False)
    except Exception as error:
        unknown.append([call, repr(error)])
    else:
        sent.append(call)
    time.sleep(max(0, begin + number / rate - time.monotonic()))
with open(path, "w") as file:
    json.dump({"sent": sent, "unknown": unknown, "seconds": time.monotonic() - begin}, file)
"""


@dataclass(frozen=True)
class Run:
    """One run of a call, as the store noted it."""

    call: str
    token: int
    pid: int
    """Of the worker's main process."""
    left: float
    """Seconds that the lease lasted when the run began."""
    outcome: str
    """``written``, ``again`` (by an earlier run) or ``refused`` (under an old token)."""


class Producer:
    """A process that calls ``effect``."""

    def __init__(
        self, children: Children, folder: Path, name: str, *, rate: float, seconds: float
    ) -> None:
        self._report = folder / f"{name}.json"
        self.child: Child = children.python(
            _PRODUCE,
            *(name, str(rate), str(seconds), str(self._report)),
            env={"PYTHONPATH": str(folder)},
            cwd=folder,
            name=name,
        )

    def wait(self, timeout: float) -> tuple[set[str], set[str], float]:
        """Return the calls that were sent, those with unknown outcome, and the seconds it took."""
        assert self.child.wait(timeout) == 0, self.child.output
        found = json.loads(self._report.read_text())
        return set(found["sent"]), {call for call, _ in found["unknown"]}, found["seconds"]


class Log:
    """What the store took and refused."""

    def __init__(self, store: redis.Redis) -> None:
        self._store = store

    def written(self) -> int:
        """How many calls had their effect."""
        return int(self._store.hlen("effects"))

    def effects(self) -> set[str]:
        """The calls that had their effect."""
        keys: Any = self._store.hkeys("effects")
        return {key.decode() for key in keys}

    def runs(self) -> list[Run]:
        """All runs, in the store's order."""
        lines: Any = self._store.lrange("log", 0, -1)
        return [_parsed(line.decode()) for line in lines]


def _parsed(line: str) -> Run:
    call, token, pid, left, outcome = line.split()
    return Run(call, int(token), int(pid), float(left), outcome)
