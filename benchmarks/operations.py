"""How long the `leader` commands take with many entries, and how long they keep Redis busy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any

from benchmarks.report import Report
from celery_safe_leader._ledger.codec import LastRun, encode_entry, encode_run
from celery_safe_leader._ledger.hash_sentinel import SENTINEL
from celery_safe_leader._store.keys import BEAT, ElectionKeys, LedgerKeys
from tests.support.processes.child import ROOT
from tests.support.servers import Server, installed_kinds

__all__ = ["main"]

_ENTRIES = 100_000
_KEY = "bench"
_CANDIDATES = 200
_EVENTS = 1_000
_COMMANDS = (
    ("status",),
    ("status", "--json"),
    ("watch", "--every", "60s"),
    ("runs",),
    ("runs", "--json"),
    ("history",),
    ("check",),
    ("probe", "--ready"),
    ("ledger", "export"),
)
_LIMIT, _PROBE_LIMIT = 2.0, 1.0
"""Seconds."""
_SLOW_US = 1000
_REPEATED = 10


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Run each command as a process of its own, with 100,000 entries; the best turn counts."""
    turns = 3 if quick else 10
    rows = []
    with Server(installed_kinds()[0]) as server:
        client: Any = server.client(decode_responses=False)
        _fill(client)
        client.config_set("slowlog-log-slower-than", _SLOW_US)
        client.config_set("slowlog-max-len", 1000)
        client.execute_command("SLOWLOG", "RESET")
        for words in _COMMANDS:
            taken = [_run(server.url, words) for _ in range(turns)]
            wall, cpu = (min(each) for each in zip(*taken, strict=True))
            name = words[0] if words[0] == "watch" else " ".join(words)
            rows.append((name, f"{wall:.2f}", f"{cpu:.2f}"))
            limit = _PROBE_LIMIT if words[0] == "probe" else _LIMIT
            report.at_most(f"`{name}` with {_ENTRIES:,} entries", wall, limit, " s")
        logged = client.execute_command("SLOWLOG", "GET", 1000)
        scans = client.info("commandstats")["cmdstat_hscan"]
        slow = sum(_is_slow(client, each[3]) for each in logged)
    report.table(("command", "seconds", "of them on a processor"), rows)
    report.say(
        f"HSCAN: {scans['calls']} calls, {scans['usec_per_call']} µs each; in Redis's slow log: "
        f"{len(logged)}, of which {slow} are slow again each time that they are repeated"
    )
    # While something else has the processor, any request takes longer than it keeps Redis busy.
    report.at_most(f"requests of all these that keep Redis busy for {_SLOW_US} µs", slow, 0)


def _is_slow(client: Any, command: list[bytes]) -> bool:
    """Return whether each of ten repetitions of a request is slow: they all only read."""
    before = int(client.execute_command("SLOWLOG", "LEN"))
    for _ in range(_REPEATED):
        client.execute_command(*command)
    return int(client.execute_command("SLOWLOG", "LEN")) - before == _REPEATED


def _fill(client: Any) -> None:
    names = LedgerKeys(_KEY)
    run = encode_run(LastRun(1_790_000_000_000_000, 7, 1_790_000_000_000_000, "f"))
    for start in range(0, _ENTRIES, 1000):
        numbers = range(start, start + 1000)
        fields = {encode_entry(f"an-entry-of-usual-length-{n}"): run for n in numbers}
        client.hset(names.runs, mapping=fields)
    client.hset(names.runs, SENTINEL, b"1 g 1 whole/m beat")
    info, keys = client.info(), ElectionKeys(_KEY, BEAT)
    seconds, micros = client.time()
    client.hset(
        keys.lease,
        mapping={
            "holder": "host:1:x",
            "token": 1_790_000_000_000,
            "renewal": f"n-{int(seconds) * 1_000_000 + int(micros)}",
            "resigned": "0",
            "ttl": 3_600_000,
            "epoch": f"{info['run_id']}:{info['master_replid']}",
        },
    )
    for number in range(_EVENTS):
        event = {"event": "elected", "holder": f"host:{number}:x", "token": number, "at": number}
        client.xadd(keys.history, event)
    says = '{"host":"worker-7f9c5d8b6-x2x9k","pid":1,"release":"0.1.0","ttl":3600.0,"age":86400.0}'
    stamp = int(seconds) * 1_000_000 + int(micros)
    for number in range(_CANDIDATES):
        client.hset(keys.presences, f"worker-{number:06}:1:0123abcd", f"{stamp} {says}")


def _run(url: str, words: tuple[str, ...]) -> tuple[float, float]:
    """Return the seconds that a command took, by the clock and on a processor."""
    command = [sys.executable, "-m", "celery_safe_leader", "--url", url, "--key", _KEY, *words]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        if words[0] == "watch":
            # It goes on; its first look is all that is meant. Not SIGINT: where this runs in the
            # background of a script, the shell has it ignored.
            process.stdout.readline()
            wall = time.monotonic() - began
            process.terminate()
        else:
            process.stdout.read()
            process.wait()  # whatever its exit code: nobody is ready, and nobody stands by
            wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
