"""The app of the fleet, and what its tasks note.

Leader-only calls have an effect each in a store that refuses old tokens and takes each call's
effect once, as a user's would. The store is no part of what is broken. Each run is noted, with all
that tells whose fault a second one was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.celery.chaos import MICROSECONDS, Execution, Grid

__all__ = ["KEY", "LEADER_QUEUE", "QUEUE", "TTL", "EffectRun", "PeriodicRun", "read_notes", "write"]

KEY = "shop"
QUEUE = "shop-work"
"""Queue of the ordinary tasks, and of periodic runs."""
LEADER_QUEUE = "leader.shop"
TTL = 3.0
"""Seconds."""

_SOURCE = """\
import json, logging, os, time
from datetime import datetime, timedelta, timezone

import redis
from celery import Celery
from celery.worker.control import control_command

import celery_safe_leader
from celery_safe_leader.errors import LeadershipLostError
from celery_safe_leader.tasks import current_leadership, leader_only

for name in ("celery.worker.strategy", "celery.app.trace"):
    logging.getLogger(name).setLevel(logging.WARNING)

app = Celery("shop", set_as_current=True)
app.conf.update({conf!r})
app.conf.broker_url = os.environ.get("FLEET_BROKER", {broker!r})
app.conf.leader_url = os.environ.get("FLEET_REDIS", {election!r})
app.conf.beat_schedule = {schedule}
celery_safe_leader.install(app)
store = redis.Redis.from_url({store!r})
write = store.register_script('''
local newest = tonumber(redis.call('GET', KEYS[1]) or '0')
if tonumber(ARGV[2]) < newest then return 'refused' end
redis.call('SET', KEYS[1], ARGV[2])
return redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 and 'written' or 'again'
''')

class Refused(Exception):
    pass

def note(what, request, **fields):
    headers = request.headers or {{}}
    line = dict(
        what=what, worker=request.hostname, at=time.monotonic(), retries=request.retries,
        redelivered=bool((request.delivery_info or {{}}).get("redelivered")),
        forwards=headers.get("leader_forwards", 0), **fields,
    )
    file = os.open({notes!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, json.dumps(line).encode() + b"\\n")
    os.close(file)

LATE = dict(acks_late=True, reject_on_worker_lost=True, ignore_result=True)

@app.task(name="shop.record", bind=True, **LATE)
def record(self, entry):
    request = self.request
    note(
        "periodic", request, entry=entry, occurrence=request.get("leader_occurrence"),
        covers=request.get("leader_covers"), publication=request.get("leader_publication"),
        token=request.get("leader_token"),
    )

@app.task(
    name="effect", bind=True, autoretry_for=(Refused, LeadershipLostError), max_retries=None,
    retry_backoff=False, default_retry_delay=0.1, retry_jitter=False, **LATE,
)
@leader_only
def effect(self, call):
    began = time.monotonic()
    leadership = current_leadership()
    left = leadership.remaining()  # after the moment: then it lasted at the moment, too
    time.sleep(0.01)
    outcome = write(["newest", "effects"], [call, leadership.token]).decode()
    note(
        "effect", self.request, call=call, began=began, left=left, token=leadership.token,
        candidate=leadership.candidate_id, outcome=outcome,
    )
    if outcome == "refused":
        raise Refused(call)

@app.task(name="shop.direct", bind=True, **LATE)
def direct(self, call):
    note("direct", self.request, call=call)

@control_command()
def break_channel(state):
    # What a mistake in anybody's code does: RabbitMQ closes the channel for it.
    state.consumer.task_consumer.channel.basic_ack(999_999_999)
"""


@dataclass(frozen=True)
class EffectRun:
    """One run of a leader-only call."""

    call: str
    token: int
    candidate: str
    began: float
    """By the monotonic clock, which all processes of a machine share."""
    left: float
    """Seconds that the lease lasted then, at least."""
    outcome: str
    """``written``, ``again`` (by an earlier run) or ``refused`` (under an old token)."""
    worker: str
    retries: int
    redelivered: bool
    """The broker had delivered this message before."""
    forwards: int


@dataclass(frozen=True)
class PeriodicRun:
    """One run of a periodic task."""

    execution: Execution
    at: float
    """By the monotonic clock."""
    worker: str
    redelivered: bool


def read_notes(
    file: Path,
) -> tuple[list[EffectRun], list[PeriodicRun], list[tuple[str, str]]]:
    """Return what was noted: effects, periodic runs, and direct calls with their worker."""
    effects, periodic, direct = [], [], []
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    for note in map(json.loads, lines):
        if note["what"] == "effect":
            effects.append(EffectRun(**{name: note[name] for name in EffectRun.__annotations__}))
        elif note["what"] == "periodic":
            periodic.append(_periodic(note))
        else:
            direct.append((note["call"], note["worker"]))
    return effects, periodic, direct


def _periodic(note: Mapping[str, Any]) -> PeriodicRun:
    first, last = map(int, note["covers"].split(","))
    names = (note["entry"], note["occurrence"], first, last, note["publication"])
    execution = Execution(*names, int(note["token"]), note["at"])
    return PeriodicRun(execution, note["at"], note["worker"], note["redelivered"])


def write(
    folder: Path, notes: Path, grids: Mapping[str, Grid], *, broker: str, election: str, store: str
) -> None:
    """Write ``app.py``.

    Args:
        folder: Where processes are started.
        notes: File for what tasks note.
        grids: When each entry is due.
        broker: URL, for processes that are given no other.
        election: URL of the election's and the ledger's server, likewise.
        store: URL of the server that takes the effects.
    """
    conf = {
        "leader_ttl": TTL,
        "leader_wait": TTL / 5,
        "leader_key": KEY,
        "leader_queue": LEADER_QUEUE,
        "task_default_queue": QUEUE,
        "worker_prefetch_multiplier": 4,
        "worker_max_tasks_per_child": 200,
        "worker_hijack_root_logger": True,
        "broker_transport_options": {"confirm_publish": True},
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Celery's own choice is that a worker ends when the broker closes its channel.
        "broker_channel_error_retry": True,
    }
    schedule = "{" + ", ".join(_entry(name, grid) for name, grid in grids.items()) + "}"
    source = _SOURCE.format(
        conf=conf, broker=broker, election=election, schedule=schedule, store=store,
        notes=str(notes),
    )  # fmt: skip
    (folder / "app.py").write_text(source)


def _entry(name: str, grid: Grid) -> str:
    last = grid.start - grid.step
    return (
        f'"{name}": {{"task": "shop.record", "schedule": {grid.step / MICROSECONDS}, '
        f'"kwargs": {{"entry": "{name}"}}, "last_run_at": '
        f"datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds={last})}}"
    )
