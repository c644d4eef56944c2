"""Let a fleet run for an hour, with entries that come and go, and see what grows.

    python -m tests.soak.endurance [--seconds 3600]

A leader and a standby dispatch a hundred runs a second to a worker. Every few seconds each beat is
given a new ``beat_schedule``, in which twenty names are new and those of the last time are gone:
in an hour 500 settings and 10,000 names. There are no dice in it. What each process and Redis hold
is noted twice a minute.

How it is judged: the time is cut into thirds, and of each figure the median of the last third, of
the heap the mean, is compared with that of the middle one; the first is for warming up. The run
fails if one is larger by more than ``ALLOWED``: by a part, or by so much, whichever is more.
Sockets, threads and keys may not grow by more than an odd one. The heap is counted in the blocks
of Python's allocator, objects of up to 512 bytes, after a collection: it may not grow by more than
a block for every three names that came and went in a third, so that a name that is kept shows. RSS
moves by whole arenas: by 2 % or 2 MiB. Messages that wait for the worker are shown and not
judged: where the machine is busy with others the worker is late. What Redis keeps is counted
without this queue. The figures are printed and kept in a file.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from statistics import mean, median
from typing import Any

from tests.soak.__main__ import versions
from tests.support.celery.beats import Beat, leader_of, write_app
from tests.support.processes import Children
from tests.support.processes.child import ROOT, Child
from tests.support.servers import Server
from tests.support.servers.kinds import installed_kinds

__all__ = ["Sample", "growth", "play"]

Sample = Mapping[str, float]

STEADY = 100
"""Entries that stay. Each runs once a second."""
SETTINGS = 500
COMING = 20
"""Entries that are new with each setting, and gone with the next."""
ALLOWED: Mapping[str, tuple[float, float]] = {
    "RSS KiB": (0.02, 2048),
    "sockets": (0.0, 1),
    "threads": (0.0, 1),
    "heap blocks": (0.0, 1_000),
    "keys": (0.0, 2),
    "Redis KiB": (0.02, 4096),
}
"""By how much each may be larger: a part of it, or so much; whichever is more. Of 10,000 names the
ledger keeps a field of a few hundred bytes each, for a week; the leader remembers the latest
thousand."""

WAITING, QUEUE = "waiting messages", "celery"

_COMES_AND_GOES = """
import gc, os, sys, threading, time
from pathlib import Path
from celery.signals import beat_init, worker_ready

def entry(name):
    return {{"task": "shop.work", "schedule": 1.0, "args": (name,)}}

def schedule(turn):
    names = [f"steady-{{n}}" for n in range({steady})]
    names += [f"comes-{{turn}}-{{n}}" for n in range({coming})]
    return {{name: entry(name) for name in names}}

def set_again():
    while True:
        # The same turn in all beats.
        app.conf.beat_schedule = schedule(int(time.time() / {every}))
        time.sleep({every} - time.time() % {every} + 0.01)

def count_blocks():
    while True:
        gc.collect()
        file = Path(f"{folder}/blocks-{{os.getpid()}}")
        new = file.with_suffix(".new")
        new.write_text(str(sys.getallocatedblocks()))
        new.replace(file)  # so that nobody reads an empty one
        time.sleep({look})

@beat_init.connect(weak=False)
def begin(**_):
    threading.Thread(target=set_again, daemon=True).start()
    threading.Thread(target=count_blocks, daemon=True).start()

@worker_ready.connect(weak=False)
def ready(**_):
    threading.Thread(target=count_blocks, daemon=True).start()
"""


def growth(samples: Sequence[Sample]) -> dict[str, tuple[float, float, float]]:
    """Return for each figure its median, or mean, in each third of the time."""
    third = len(samples) // 3
    first, middle, last = samples[:third], samples[third : 2 * third], samples[2 * third :]
    return {name: (_in(first, name), _in(middle, name), _in(last, name)) for name in samples[0]}


def _in(samples: Sequence[Sample], name: str) -> float:
    # A standby's heap saw-tooths within a minute, of which half-minutes show two values by turns.
    middle = mean if name.endswith("heap blocks") else median
    return middle(each[name] for each in samples)


def problems(samples: Sequence[Sample]) -> list[str]:
    """Return what grew, in words."""
    found = []
    for name, (_, before, after) in growth(samples).items():
        if name == WAITING:
            continue
        part, least = ALLOWED[name.split(": ")[-1]]
        if after - before > max(part * before, least):
            found.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return found


def play(folder: Path, seconds: float, samples: list[Sample]) -> dict[str, object]:
    """Let them run, add a sample twice a minute, and return what was counted."""
    every, pause = seconds / SETTINGS, min(30.0, seconds / 60)
    with Server(installed_kinds()[0]) as server:
        more = _COMES_AND_GOES.format(
            steady=STEADY, coming=COMING, every=every, look=pause / 2, folder=folder
        )
        write_app(folder, server.url, "{}", more=more, leader_ttl=3.0, leader_wait=0.6)
        children = Children()
        try:
            arguments = ("-A", "app", "worker", "-l", "WARNING", "-P", "threads", "-c", "2")
            env = {"PYTHONPATH": str(folder)}
            worker = children.module("celery", *arguments, env=env, cwd=folder, name="worker")
            beats = [
                Beat(children, folder, "-s", str(folder / f"{n}"), name=f"beat {n}") for n in "ab"
            ]
            leader = leader_of(lambda: beats, 60)
            processes = {"worker": worker}
            for beat in beats:
                processes["leader" if beat is leader else "standby"] = beat.child
            client = server.client()
            commands = _pops(client)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(pause)
                samples.append(_sample(processes, client, folder))
            return {
                "pops by the worker": _pops(client) - commands,
                "tenures": sum(len(beat.tenures) for beat in beats),
                "waiting at the end": client.llen(QUEUE),
            }
        finally:
            children.close()


def _sample(processes: Mapping[str, Child], client: Any, folder: Path) -> Sample:
    found: dict[str, float] = {}
    for name, child in processes.items():
        status = Path(f"/proc/{child.pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        found[f"{name}: RSS KiB"] = float(fields["VmRSS"].split()[0])
        found[f"{name}: threads"] = float(fields["Threads"])
        found[f"{name}: sockets"] = float(_sockets(child.pid))
        found[f"{name}: heap blocks"] = float((folder / f"blocks-{child.pid}").read_text())
    queue = client.memory_usage(QUEUE, samples=0) or 0
    found["keys"] = float(client.dbsize() - client.exists(QUEUE))
    found["Redis KiB"] = (client.info("memory")["used_memory"] - queue) / 1024
    found[WAITING] = float(client.llen(QUEUE))
    return found


def _sockets(pid: int) -> int:
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += str(link.readlink()).startswith("socket:")
        except OSError:
            continue  # closed meanwhile
    return count


def _pops(client: Any) -> int:
    stats = client.info("commandstats")
    return int(stats.get("cmdstat_brpop", {}).get("calls", 0))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def main() -> int:
    """Play, print and keep what was found, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.endurance", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="for how long")
    parser.add_argument("--folder", type=Path, default=ROOT / ".soak", help="for the file")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    start, samples = _now(), list[Sample]()
    with tempfile.TemporaryDirectory(prefix="endurance-") as name:
        counts = play(Path(name), given.seconds, samples)
    found = problems(samples)
    kept = {
        "scene": "endurance",
        "command": shlex.join(["python", "-m", "tests.soak.endurance", *sys.argv[1:]]),
        "versions": versions(),
        "start": start,
        "end": _now(),
        "counts": counts,
        "growth": growth(samples),
        "problems": found,
        "samples": samples,
    }
    file = given.folder / f"endurance-{start[:19].replace(':', '')}.json"
    file.write_text(json.dumps(kept, indent=1) + "\n")
    for name, thirds in growth(samples).items():
        print(f"{name:>24}", *(f"{value:12,.0f}" for value in thirds))
    for name, value in counts.items():
        print(f"{name:>24}  {value}")
    for line in found:
        print(f"PROBLEM: {line}")
    print(f"{'FAILED' if found else 'passed'}; kept in {file}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
