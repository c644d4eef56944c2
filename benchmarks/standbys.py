"""What warm standbys cost Redis, and their memory, with 100,000 entries of which ten are due."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.handover import PATIENCE, Relay
from benchmarks.report import Report

__all__ = ["main"]

_TTL, _WAIT = 10.0, 2.0
"""Seconds: the defaults, which most fleets have."""
_COUNT = 20
_AT_ONCE = 4
"""Beats that start at the same time: more would be in each other's way."""


def main(report: Report, *, quick: bool, full: bool) -> None:
    """Print what standbys cost while they copy, and after it."""
    entries = 10_000 if quick else 100_000
    count = _COUNT if full else 6
    seconds = 600.0 if full else 60.0 if quick else 120.0
    with ExitStack() as cleanup:
        relay = Relay(entries, cleanup, leader_ttl=_TTL, leader_wait=_WAIT)
        client: Any = relay.server.client()
        relay.beats[-1].child.wait_for_line("Copied the ledger", PATIENCE)
        alone = _cost(client, min(seconds, 120.0))
        before, began = _used(client), time.monotonic()
        _start(relay, count - 1)
        copies = {name: value - before[name] for name, value in _used(client).items()}
        took = time.monotonic() - began
        with_all = _cost(client, seconds)
        memory = sorted(_resident(beat.pid) for beat in relay.beats[1:])
        of_leader = _resident(relay.leader.pid)
        tenures = sum(len(beat.tenures) for beat in relay.beats)
    report.table(
        (f"{entries:,} entries, ten of 0.1 s", "Redis: processor", "sent by it", "commands"),
        [
            ("a leader and one standby", *_shown(alone)),
            (f"a leader and {count} standbys, warm", *_shown(with_all)),
        ],
    )
    report.say(
        f"(the second over {seconds:.0f} s, the first over {min(seconds, 120.0):.0f} s; ttl "
        f"{_TTL:g} s, wait {_WAIT:g} s; {tenures} tenure). Starting and copying by {count - 1} "
        f"standbys, in {took:.0f} s: {copies['cpu']:.2f} s of Redis's processor, "
        f"{copies['sent'] / 1e6:.0f} MB sent, {copies['commands']:,.0f} commands"
    )
    report.say(
        f"memory of a standby with {entries:,} entries: {memory[0] / 1e6:.0f} to "
        f"{memory[-1] / 1e6:.0f} MB; the leader's {of_leader / 1e6:.0f} MB"
    )


def _start(relay: Relay, count: int) -> None:
    """Start so many standbys, and wait until each has its copy."""
    for first in range(0, count, _AT_ONCE):
        for beat in [relay.start() for _ in range(min(_AT_ONCE, count - first))]:
            beat.child.wait_for_line("Standing by for", PATIENCE)
    for beat in relay.beats[1:]:
        beat.child.wait_for_line("Copied the ledger", 2 * PATIENCE)


def _cost(client: Any, seconds: float) -> dict[str, float]:
    """Return what Redis uses in a second."""
    before = _used(client)
    time.sleep(seconds)
    return {name: (value - before[name]) / seconds for name, value in _used(client).items()}


def _used(client: Any) -> dict[str, float]:
    info = client.info()
    return {
        "cpu": info["used_cpu_user"] + info["used_cpu_sys"],
        "sent": info["total_net_output_bytes"],
        "commands": info["total_commands_processed"],
    }


def _shown(cost: dict[str, float]) -> tuple[str, str, str]:
    return (
        f"{100 * cost['cpu']:.1f} % of a core",
        f"{cost['sent'] / 1000:.1f} kB/s",
        f"{cost['commands']:.0f}/s",
    )


def _resident(pid: int) -> int:
    """Return the bytes of memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} has no VmRSS")
